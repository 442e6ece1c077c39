// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Saving and restoring guests, many times.

use std::{
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::{
    Account, IdleMode, Job, JobKind, Mechanism, Random, Shared, LEDGER_SOURCES, LEDGER_VCPUS,
};
use pvirq::device::Device;
use pvirq_protocol::Tally;
use serde_json::{json, Value};
use vmm::{error::Error, machine::Machine};

use super::{audit::Auditor, case::SurviveCase, events::Events, round};
use crate::{
    bench::{After, Bench, Measured, Piece},
    clock::cycles,
    ground::Ground,
    row::{add_posts, posts},
    session::{Session, JOB_LIMIT},
    table::Column,
};

const MEMORY: usize = 4 << 20;
/// How long an interrupt may be under way before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a vCPU rests.
const REST: Duration = Duration::from_micros(200);
/// How many rounds pass between two notes.
const NOTED: u64 = 100;

/// Saves and restores guests.
pub struct Survive {
    /// The guests.
    pub plan: Vec<SurviveCase>,
    /// How often each is saved and restored.
    pub rounds: u32,
    /// What random numbers begin with.
    pub seed: u64,
}

/// How a guest's interrupts fared.
#[derive(Default)]
pub struct Sum {
    rounds: u64,
    seen: round::Counts,
    ipis: u64,
    signals: u64,
    lost: u64,
    twice: u64,
    heals: u64,
    healed: u64,
    registrations: u64,
    posts: Tally,
    seconds: f64,
}

impl Sum {
    /// Adds what a guest has left that has parked.
    fn end(&mut self, shared: &Shared, auditor: &Auditor, events: &Events) {
        let survival = &shared.survival;
        let count = |of: fn(Account) -> u64| -> u64 {
            let ledgers = survival.ledgers.iter();
            ledgers
                .flat_map(|ledger| (0..LEDGER_SOURCES).map(|source| of(ledger.account(source))))
                .sum()
        };
        let ipis = survival.ledgers.iter().flat_map(|ledger| {
            let sources = ledger.sent[..LEDGER_VCPUS].iter();
            sources.map(|number| number.value.load(SeqCst))
        });

        self.ipis += ipis.sum::<u64>();
        self.signals += events.signals();
        self.lost += auditor.lost + count(Account::missing);
        self.twice += auditor.twice + count(Account::repeated);
        self.heals += survival.heals.load(SeqCst);
        self.healed += survival.healed.load(SeqCst);
        self.registrations += survival.registrations.load(SeqCst);
        add_posts(&mut self.posts, &shared.posts.tally());
    }
}

impl Bench for Survive {
    type Case = SurviveCase;
    type Subject = SurviveCase;
    /// It changes with each round.
    type Machine = ();
    type Sum = Sum;

    fn cases(&self) -> Vec<SurviveCase> {
        self.plan.clone()
    }

    fn subjects(&self, case: &SurviveCase) -> Vec<SurviveCase> {
        vec![*case]
    }

    fn device<'a>(&'a self, case: &'a SurviveCase) -> &'a Path {
        Path::new(case.devices.paths()[0])
    }

    /// Even on KVM's own device guests must survive.
    fn is_baseline(&self, _: &SurviveCase) -> bool {
        false
    }

    fn rounds(&self, _: &SurviveCase) -> u32 {
        1
    }

    fn boot(&self, _: &Session, _: &SurviveCase, _: &SurviveCase) -> Result<(), Error> {
        Ok(())
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let start = Instant::now();
        // A guest that is started again goes on, and does not do the same.
        let seed = self.seed + u64::from(piece.failures);
        let done = self.go_on(piece.session, piece.case, seed, piece.sum, piece.note);
        piece.sum.seconds += start.elapsed().as_secs_f64();
        done.map(|()| After::Keep)
    }

    fn rows(&self, _: &Session, case: &SurviveCase, all: &mut [Measured<Self>]) -> Vec<Value> {
        let row = |one: &mut Measured<Self>| {
            let sum = &one.sum;
            json!({
                "bench": "survive",
                "case": "save-restore",
                "mechanism": case.mechanism(),
                "devices": case.devices.name(),
                "saved_by": case.posted(),
                "vcpus": case.vcpus,
                "seed": self.seed,
                "rounds": sum.rounds,
                "ipis": sum.ipis,
                "signals": sum.signals,
                "signals_while_paused": sum.seen.signalled,
                "lost": sum.lost,
                "twice": sum.twice,
                "saved_in_lapics": sum.seen.in_lapics,
                "saved_as_posted": sum.seen.posted,
                "halted": sum.seen.halted,
                "heals": sum.heals,
                "healed": sum.healed,
                "registrations": sum.registrations,
                "posts": posts(&sum.posts),
                "cpu_faults": one.cpu_faults,
                "seconds": sum.seconds,
            })
        };
        all.iter_mut().map(row).collect()
    }

    fn columns(&self, _: &Ground) -> Vec<Column> {
        vec![
            Column::text("devices", "devices"),
            Column::text("mechanism", "mechanism"),
            Column::text("saved by", "saved_by"),
            Column::number("vCPUs", "/vcpus", 0),
            Column::number("rounds", "/rounds", 0),
            Column::number("lost", "/lost", 0),
            Column::number("twice", "/twice", 0),
            Column::number("IPIs", "/ipis", 0),
            Column::number("elided", "/posts/elided", 0),
            Column::number("coalesced", "/posts/coalesced", 0),
            Column::number("signals", "/signals", 0),
            Column::number("while\npaused", "/signals_while_paused", 0),
            Column::number("saved in\nLAPICs", "/saved_in_lapics", 0),
            Column::number("saved as\nposted", "/saved_as_posted", 0),
            Column::number("regis-\ntrations", "/registrations", 0),
            Column::number("healed", "/healed", 0),
            Column::number("seconds", "/seconds", 0),
        ]
    }

    fn vcpus(&self) -> Vec<usize> {
        self.plan.iter().map(|case| case.vcpus).collect()
    }
}

impl Survive {
    /// Saves and restores a new guest as often as is left.
    fn go_on(
        &self,
        session: &Session,
        case: &SurviveCase,
        seed: u64,
        sum: &mut Sum,
        note: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let open = |path: &&str| Ok(Device::open(Path::new(path))?);
        let devices = case.devices.paths().iter().map(open);
        let devices = devices.collect::<Result<Vec<_>, Error>>()?;
        let cpus = session
            .ground
            .clone()
            .place(session.cpus.in_turn(case.vcpus));
        let mut config = session.config(&cpus);
        (config.memory, config.count) = (MEMORY, false);
        let mut random = Random::new(seed);
        let mut machine = session.boot(devices[0].path(), &config)?;
        let khz = machine.tsc_khz();
        machine.shared()?.set_job(&Job {
            mechanism: case.mechanism,
            idle_mode: IdleMode::Mixed,
            gap: cycles(REST, khz),
            seed,
            patience: cycles(PATIENCE, khz),
            ..Job::new(JobKind::Survive)
        });

        let registers = case.mechanism == Mechanism::Pvirq;
        let events = Events::new(case.vcpus, machine.memory())?;
        let mut auditor = Auditor::new(case.vcpus, PATIENCE);
        let mut on = 0;
        let result = events.while_signalling(seed, || {
            while sum.rounds < u64::from(self.rounds) {
                events.attach(&machine, devices[on].path(), registers)?;
                machine.start();
                let_run(&events, &machine, round::delay(&mut random))?;
                machine.pause()?;
                auditor.audit(machine.shared()?, &events, note);
                let to = case.devices.next(&mut random);
                let saved = round::save(case, devices[on].path(), &machine, &events, &mut random)?;
                sum.seen += saved.counts;
                machine = saved.restore(&devices[to], &config)?;
                events.set_memory(machine.memory());
                sum.rounds += 1;
                on = to;
                if sum.rounds % NOTED == 0 {
                    note(&format!(
                        "{case}: {} rounds, {}",
                        sum.rounds,
                        auditor.text()
                    ));
                }
            }
            Ok::<_, Error>(())
        })?;
        result?;

        events.attach(&machine, devices[on].path(), registers)?;
        events.leave_numbers(machine.shared()?);
        machine.shared()?.survival.over.store(1, SeqCst);
        end(&mut machine, &events)?;
        sum.end(machine.shared()?, &auditor, &events);
        if machine.shared()?.lost.load(SeqCst) != 0 {
            note(&machine.console());
        }
        Ok(())
    }
}

/// Lets the guest run, and binds eventfds as soon as that is possible.
fn let_run(events: &Events, machine: &Machine, time: Duration) -> Result<(), Error> {
    /// How often it is tried.
    const SLICE: Duration = Duration::from_micros(500);

    let end = Instant::now() + time;
    loop {
        events.bind(machine.vm())?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// Lets the guest take what is under way, and park.
fn end(machine: &mut Machine, events: &Events) -> Result<(), Error> {
    machine.start();
    let deadline = Instant::now() + JOB_LIMIT;
    let mut parked = 0;
    while parked < machine.vcpus() {
        events.bind(machine.vm())?;
        parked += usize::from(machine.next_parked(deadline, Duration::from_millis(1))?);
    }
    Ok(())
}
