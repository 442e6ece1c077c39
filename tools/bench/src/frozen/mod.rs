// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether a sender that stops for ever in a post delays another one's interrupt.
//!
//! vCPU 0 interrupts vCPU 1 and measures how long that takes. Meanwhile another sender of the same vector to the same vCPU
//! stops in its post: a device's process that is killed, or a vCPU that is kept out of `KVM_RUN`. The same is measured
//! with native interrupts, in turn.

mod process;
mod report;
mod vcpu;

use std::{path::Path, sync::atomic::Ordering::SeqCst, thread, time::Duration};

use mini_guest::{
    IdleMode, Job, JobKind, Mechanism, Mode, Pattern, Shared, StopAt, CYCLES_LEN, IPI_VECTOR,
};
use pvirq::device::{Device, PVIRQ};
use pvirq_protocol::{ioctl::Poll, Vector};
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

pub use self::report::{FrozenReport, FrozenRow};
use self::{process::Device as DeviceProcess, report::Measured};
use crate::clock::cycles;
use crate::ground::Ground;

const MEMORY: usize = 4 << 20;
/// How long an interrupt may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a piece may take.
const JOB_LIMIT: Duration = Duration::from_secs(180);
/// The longest that a sender or the target does the same.
const GAP: Duration = Duration::from_micros(200);
/// How often a sender is stopped in a piece.
const STOPS: u32 = 25;
/// The longest that a device's process posts before it is killed, and that there is none.
const ALIVE: Duration = Duration::from_micros(500);
const DEAD: Duration = Duration::from_millis(2);
/// How often a piece may fail by the CPU's fault.
const RETRIES: u32 = 3;
/// The vCPU that is interrupted.
const TARGET: usize = 1;

/// Who stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrozenCase {
    /// A process of the VMM that posts.
    Process,
    /// A vCPU.
    Vcpu,
}

impl FrozenCase {
    /// All there are.
    pub const ALL: [FrozenCase; 2] = [FrozenCase::Process, FrozenCase::Vcpu];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            FrozenCase::Process => "process",
            FrozenCase::Vcpu => "vcpu",
        }
    }

    /// The one that sends, the one that is interrupted, and the one that stops.
    fn vcpus(self) -> usize {
        match self {
            FrozenCase::Process => 2,
            FrozenCase::Vcpu => 3,
        }
    }

    /// What is measured in turn, by which mechanism. What the others are compared with comes first.
    fn cells(self) -> Vec<(Mechanism, Culprit)> {
        use Mechanism::{Pvirq, X2Apic};
        match self {
            FrozenCase::Process => vec![
                (X2Apic, Culprit::Killed),
                (X2Apic, Culprit::None),
                (Pvirq, Culprit::None),
                (Pvirq, Culprit::Killed),
            ],
            FrozenCase::Vcpu => vec![
                (X2Apic, Culprit::Stopped(StopAt::BetweenPosts)),
                (Pvirq, Culprit::Stopped(StopAt::BetweenPosts)),
                (Pvirq, Culprit::Stopped(StopAt::AfterSet)),
            ],
        }
    }
}

/// How the other sender stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// There is none.
    None,
    /// It is killed.
    Killed,
    /// It is kept out of `KVM_RUN`.
    Stopped(StopAt),
}

impl Culprit {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Culprit::None => "none",
            Culprit::Killed => "killed",
            Culprit::Stopped(StopAt::Nowhere) => "nowhere",
            Culprit::Stopped(StopAt::BetweenPosts) => "between-posts",
            Culprit::Stopped(StopAt::AfterSet) => "after-set",
        }
    }
}

/// Measures.
pub struct Frozen {
    cpus: CpuList,
    device: Device,
    image: Image,
}

impl Frozen {
    /// Opens pvirq's device, for machines on these CPUs.
    pub fn new(cpus: CpuList) -> Result<Self, Error> {
        Ok(Frozen {
            cpus,
            device: Device::open(Path::new(PVIRQ))?,
            image: Image::mini_guest(),
        })
    }

    /// Stops senders so many times in each way.
    pub fn measure(
        &self,
        case: FrozenCase,
        stops: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<FrozenRow>, Error> {
        let cells = case.cells();
        let mut measured: Vec<Measured> = cells.iter().map(|_| Measured::default()).collect();
        let mut machine = self.boot(case)?;

        for piece in 0..stops.div_ceil(STOPS) {
            let mut order: Vec<usize> = (0..cells.len()).collect();
            if piece % 2 != 0 {
                order.reverse();
            }
            for index in order {
                let (mechanism, culprit) = cells[index];
                let stops = STOPS.min(stops - piece * STOPS);
                let mut failures = 0;
                while let Err(error) = self.piece(
                    &mut machine,
                    (mechanism, culprit, stops, piece),
                    &mut measured[index],
                ) {
                    failures += 1;
                    if !error.is_cpu_fault() || failures > RETRIES {
                        return Err(error);
                    }
                    note(&format!("the guest failed, trying again: {error}"));
                    measured[index].cpu_faults += 1;
                    machine = self.boot(case)?;
                }
                if measured[index].lost != 0 {
                    note(&machine.console());
                    machine = self.boot(case)?;
                }
            }
        }
        Ok(report::rows(case, &cells, &mut measured))
    }

    /// The CPU of each vCPU. Two have run in parallel under TCG for thousands of stops; one of three ended in a shutdown.
    fn place(&self, case: FrozenCase) -> Vec<usize> {
        let cpus = self.cpus.first_alone(case.vcpus());
        match case {
            FrozenCase::Process => cpus,
            FrozenCase::Vcpu => Ground::detect().place(cpus),
        }
    }

    fn boot(&self, case: FrozenCase) -> Result<Machine, Error> {
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus: &self.place(case),
            mode: Mode::Jobs,
            pv_eoi: true,
            count: false,
        };
        let mut machine = Machine::new(&self.device, &config)?;
        machine.run_job(None, JOB_LIMIT)?;
        machine.set_poll(&Poll::fixed(GAP.as_nanos() as u32))?;
        machine.register_or_fail(JOB_LIMIT)?;
        Ok(machine)
    }

    fn piece(
        &self,
        machine: &mut Machine,
        (mechanism, culprit, stops, seed): (Mechanism, Culprit, u32, u32),
        measured: &mut Measured,
    ) -> Result<(), Error> {
        let khz = machine.tsc_khz();
        let job = Job {
            kind: JobKind::Frozen,
            mechanism,
            pattern: Pattern::Unicast,
            idle_mode: IdleMode::Mixed,
            sends: 0,
            gap: cycles(GAP, khz),
            seed: seed.into(),
            patience: cycles(PATIENCE, khz),
            window: 0,
        };
        let vector = Vector::new(IPI_VECTOR)
            .map_err(|_| Error::Memory("the interrupt's vector is reserved".into()))?;
        let process = match culprit {
            Culprit::Killed => Some(DeviceProcess::new(machine, TARGET, vector)?),
            _ => None,
        };
        if let Culprit::Stopped(_) = culprit {
            vcpu::set_bell(machine);
        }
        let (_, left) = machine.run_job_with(&job, JOB_LIMIT, |shared| {
            let left = match culprit {
                Culprit::Stopped(at) => vcpu::stop(shared, at, stops).map(|()| 0),
                _ => kill(shared, process.as_ref(), stops, seed),
            };
            shared.frozen.over.store(1, SeqCst);
            left
        })?;
        if let Some(process) = process {
            process.unbind(machine)?;
        }
        measured.stops += u64::from(stops);
        measured.left += left?;
        measured.lost += machine.shared()?.lost.load(SeqCst);
        let shared = machine.shared()?;
        let events = shared.events.load(SeqCst) as usize;
        let cycles = shared.cycles[..events.min(CYCLES_LEN)].iter();
        measured.add(events as u64, cycles.map(|cycles| cycles.load(SeqCst)));
        Ok(())
    }
}

/// Kills processes while they post, or only waits as long as that, and returns how many have left a bit pending.
fn kill(
    shared: &Shared,
    process: Option<&DeviceProcess>,
    stops: u32,
    seed: u32,
) -> Result<u64, Error> {
    let mut random = crate::random::Random::new(seed.into());
    let mut left = 0;

    shared.frozen.measured.store(1, SeqCst);
    for _ in 0..stops {
        let alive = Duration::from_nanos(random.below(ALIVE.as_nanos() as u64));
        match process {
            None => thread::sleep(alive),
            Some(process) => left += u64::from(process.run_and_kill(alive)?),
        }
        thread::sleep(Duration::from_nanos(random.below(DEAD.as_nanos() as u64)));
        if shared.frozen.over.load(SeqCst) != 0 {
            break;
        }
    }
    Ok(left)
}
