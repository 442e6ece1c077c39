// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether interrupts survive that the VM is saved and restored, at random points, by KVM's API alone.
//!
//! Every vCPU of the mini guest interrupts all others, and a thread of the VMM signals two eventfds for each vCPU. The
//! VMM gets the vCPUs out of `KVM_RUN`, saves them and the memory, and goes on in a new VM, on the same device or on
//! another. The guest's ledger ([`mini_guest::Survival`]) and the VMM's own tell exactly what is lost and what is repeated.

mod case;
mod events;
mod report;
mod round;

use std::{
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::{IdleMode, Job, JobKind, Mechanism, Mode, Pattern};
use pvirq::device::Device;
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

pub use self::{
    case::{survive_plan, Device as SurviveDevice, SurviveCase},
    report::{SurviveReport, SurviveRow},
};
use self::{events::Events, round::Auditor};
use crate::{clock::cycles, ground::Ground, random::Random};

const MEMORY: usize = 4 << 20;
/// How long an interrupt may be under way before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the guest may take to begin and to end.
const JOB_LIMIT: Duration = Duration::from_secs(120);
/// The longest that a vCPU rests.
const REST: Duration = Duration::from_micros(200);
/// How often a guest is started again if a CPU has done what none should.
const RETRIES: u32 = 3;
/// How many rounds pass between two notes.
const NOTED: u32 = 100;

/// Saves and restores.
pub struct Survive {
    cpus: CpuList,
    image: Image,
    seed: u64,
}

impl Survive {
    /// Uses these CPUs, and random numbers that begin with `seed`.
    pub fn new(cpus: CpuList, seed: u64) -> Self {
        Survive {
            cpus,
            image: Image::mini_guest(),
            seed,
        }
    }

    /// Saves and restores a guest so many times, and says what became of its interrupts.
    pub fn measure(
        &self,
        case: &SurviveCase,
        rounds: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<SurviveRow, Error> {
        let mut row = SurviveRow::new(case, self.seed);
        let start = Instant::now();
        while row.rounds < u64::from(rounds) {
            let left = rounds - row.rounds as u32;
            // So that a guest that is started again does not do the same.
            let seed = self.seed + u64::from(row.cpu_faults);
            let Err(error) = self.run(case, left, seed, &mut row, note) else {
                break;
            };
            if !error.is_cpu_fault() || row.cpu_faults >= RETRIES {
                return Err(error);
            }
            row.cpu_faults += 1;
            note(&format!("the guest failed, trying again: {error}"));
        }
        row.seconds = start.elapsed().as_secs_f64();
        Ok(row)
    }

    fn run(
        &self,
        case: &SurviveCase,
        rounds: u32,
        seed: u64,
        row: &mut SurviveRow,
        note: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let devices = case
            .devices
            .paths()
            .iter()
            .map(|path| Device::open(Path::new(path)))
            .collect::<Result<Vec<_>, _>>()?;
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus: &Ground::detect().place(self.cpus.in_turn(case.vcpus)),
            mode: Mode::Jobs,
            pv_eoi: true,
            count: false,
        };
        let mut random = Random::new(seed);
        let mut machine = Machine::new(&devices[0], &config)?;
        machine.run_job(None, JOB_LIMIT)?;
        machine.shared()?.set_job(&Job {
            kind: JobKind::Survive,
            mechanism: case.mechanism,
            pattern: Pattern::Unicast,
            idle_mode: IdleMode::Mixed,
            sends: 0,
            gap: cycles(REST, machine.tsc_khz()),
            seed,
            patience: cycles(PATIENCE, machine.tsc_khz()),
            window: 0,
        });

        let registers = case.mechanism == Mechanism::Pvirq;
        let events = Events::new(case.vcpus, machine.memory())?;
        let mut auditor = Auditor::new(case.vcpus, PATIENCE);
        let mut on = 0;
        let result = events.while_signalling(seed, || {
            for round in 0..rounds {
                events.attach(&machine, devices[on].path(), registers)?;
                machine.start();
                self.let_run(&events, &machine, round::delay(&mut random))?;
                machine.pause()?;
                auditor.audit(machine.shared()?, &events, note);
                let to = case.devices.next(&mut random);
                let saved = round::save(case, devices[on].path(), &machine, &events, &mut random)?;
                row.add(&saved.counts);
                machine = saved.restore(&devices[to], &config)?;
                events.set_memory(machine.memory());
                row.rounds += 1;
                on = to;
                if round % NOTED == NOTED - 1 {
                    note(&format!(
                        "{case}: {} rounds, {}",
                        row.rounds,
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
        self.end(&mut machine, &events)?;
        row.end(machine.shared()?, &auditor, &events);
        if machine.shared()?.lost.load(SeqCst) != 0 {
            note(&machine.console());
        }
        Ok(())
    }

    /// Lets the guest run, and binds eventfds as soon as that is possible.
    fn let_run(&self, events: &Events, machine: &Machine, time: Duration) -> Result<(), Error> {
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
    fn end(&self, machine: &mut Machine, events: &Events) -> Result<(), Error> {
        machine.start();
        let deadline = Instant::now() + JOB_LIMIT;
        let mut parked = 0;
        while parked < machine.vcpus() {
            events.bind(machine.vm())?;
            parked += usize::from(machine.next_parked(deadline, Duration::from_millis(1))?);
        }
        Ok(())
    }
}
