// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A vCPU, which a thread of its own runs when it is told to.

use std::{
    os::fd::AsRawFd,
    sync::{
        mpsc::{Receiver, Sender},
        Arc,
    },
    time::Instant,
};

use exit_count::{
    exits::{Exits, Reason, Statistics},
    stats::VcpuStats,
    trace::ExitTrace,
    usage::Usage,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::{
    cpus,
    error::Error,
    kick::Kickable,
    ports::{Ports, Written},
    snapshot::VcpuSnapshot,
    state::VcpuState,
};

/// Why a vCPU stopped.
#[derive(Debug)]
pub enum Stop {
    /// It has finished its job.
    Parked,
    /// It has ended the machine, with a status.
    Exit(u8),
    /// It was kicked out, in this state.
    Kicked(Box<VcpuState>),
    /// It cannot go on, for a reason, in a state.
    Failed(String, Box<VcpuState>),
}

/// What the machine wants of a vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To run the vCPU until it stops.
    Run,
    /// To read its state, which it does not run to change.
    Save,
}

/// What a vCPU's thread tells the machine.
pub struct Report {
    /// The vCPU.
    pub vcpu: usize,
    /// Why it stopped and what it counted since it was told to run; at the very first, that it is ready.
    pub event: Result<Event, Error>,
}

/// What happened to a vCPU.
pub enum Event {
    /// Its thread is ready to run it.
    Ready,
    /// It has run.
    Stopped(Stop, Box<Counts>),
    /// This is its state.
    Saved(Box<VcpuSnapshot>),
}

/// What there was during a run: exits, as KVM's two sources count them, and the thread's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// KVM's statistics.
    pub statistics: Statistics,
    /// KVM's tracepoint.
    pub trace: Exits,
    /// What its thread has used meanwhile.
    pub usage: Usage,
}

impl Counts {
    /// Returns the exits of a vCPU that has parked, without its last `ports` writes to ports: the one that parks it is not
    /// a part of its job.
    ///
    /// Fails if KVM's two sources disagree.
    pub fn exits(&self, vcpu: usize, ports: u32) -> Result<Exits, Error> {
        let mut exits = self.trace;
        self.statistics
            .agree_with(&exits)
            .map_err(|disagreement| Error::Count(format!("vCPU {vcpu}: {disagreement}")))?;
        match (0..ports).all(|_| exits.forget(Reason::Io)) {
            true => Ok(exits),
            false => Err(Error::Count(format!(
                "vCPU {vcpu} has parked without an exit"
            ))),
        }
    }
}

/// Counts exits between two moments.
struct Counter {
    stats: VcpuStats,
    trace: ExitTrace,
    before: (Statistics, Usage),
    since: Instant,
}

impl Counter {
    fn begin(&mut self, vcpu: &VcpuFd) -> Result<(), Error> {
        self.trace.take()?;
        self.before = (self.stats.read()?, Usage::read(vcpu.as_raw_fd())?);
        self.since = Instant::now();
        Ok(())
    }

    fn end(&mut self, vcpu: &VcpuFd) -> Result<Counts, Error> {
        let (statistics, usage) = self.before;
        Ok(Counts {
            usage: Usage::read(vcpu.as_raw_fd())? - usage,
            statistics: self.stats.read()? - statistics,
            trace: self.trace.take().map_err(|error| match error.into() {
                Error::Count(what) => Error::Count(format!(
                    "{what} in {:.1} s",
                    self.since.elapsed().as_secs_f64()
                )),
                error => error,
            })?,
        })
    }
}

/// A vCPU.
pub struct Vcpu {
    /// Its number.
    pub index: usize,
    /// The CPU that it stays on.
    pub cpu: usize,
    /// KVM's file.
    pub fd: VcpuFd,
    /// The machine's ports.
    pub ports: Arc<Ports>,
    /// Its statistics, if exits shall be counted.
    pub stats: Option<VcpuStats>,
}

impl Vcpu {
    /// The vCPU's thread: obeys orders, and reports. It ends when there can be no more orders.
    pub fn serve(mut self, orders: Receiver<Order>, reports: Sender<Report>) {
        let vcpu = self.index;
        // If another vCPU failed, the machine may be gone, and no report is read any more.
        let report = |event| drop(reports.send(Report { vcpu, event }));

        // SAFETY: Both belong to this thread, and `self` is dropped after what is declared later.
        let _kickable = unsafe { Kickable::new(&mut self.fd) };
        let counter = self
            .stats
            .take()
            .map(|stats| {
                Ok(Counter {
                    stats,
                    trace: ExitTrace::start()?,
                    before: Default::default(),
                    since: Instant::now(),
                })
            })
            .transpose();
        let mut counter = match cpus::pin(self.cpu).and(counter) {
            Ok(counter) => counter,
            Err(error) => return report(Err(error)),
        };
        report(Ok(Event::Ready));
        for order in orders {
            report(match order {
                Order::Run => self.run(&mut counter),
                Order::Save => VcpuSnapshot::save(&self.fd).map(|saved| Event::Saved(saved.into())),
            });
        }
    }

    /// Runs the vCPU until it stops, and counts.
    fn run(&mut self, counter: &mut Option<Counter>) -> Result<Event, Error> {
        if let Some(counter) = counter {
            counter.begin(&self.fd)?;
        }
        let stop = self.run_until_stop();
        let counts = counter
            .as_mut()
            .map(|counter| counter.end(&self.fd))
            .transpose();
        let counts = match stop {
            Stop::Parked => counts?,
            // Why it has stopped matters more than that its exits could not be counted.
            _ => counts.ok().flatten(),
        };
        Ok(Event::Stopped(stop, Box::new(counts.unwrap_or_default())))
    }

    fn run_until_stop(&mut self) -> Stop {
        let what = loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(address, data)) => match self.ports.write(address, data) {
                    Written::Continue => {}
                    Written::Parked => return Stop::Parked,
                    Written::Exit(status) => return Stop::Exit(status),
                },
                Ok(VcpuExit::IoIn(address, data)) => self.ports.read(address, data),
                Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
                Ok(VcpuExit::MmioWrite(..)) => {}
                Ok(VcpuExit::Shutdown) => {
                    break "the guest shut down (KVM_EXIT_SHUTDOWN): a triple fault, most likely"
                        .into()
                }
                Ok(VcpuExit::FailEntry(reason, cpu)) => {
                    break format!(
                        "CPU {cpu} refused to enter the guest (KVM_EXIT_FAIL_ENTRY): {reason:#x}"
                    )
                }
                Ok(VcpuExit::InternalError) => {
                    break "KVM cannot emulate what the guest does (KVM_EXIT_INTERNAL_ERROR)".into()
                }
                Ok(exit) => break format!("an exit that this VMM does not handle: {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => {
                    if self.fd.get_kvm_run().immediate_exit != 0 {
                        self.fd.set_kvm_immediate_exit(0);
                        return Stop::Kicked(Box::new(VcpuState::read(&self.fd)));
                    }
                    // Another signal: the process was stopped and continued, or is being traced.
                }
                Err(error) => break format!("KVM_RUN failed: {error}"),
            }
        };
        Stop::Failed(what, Box::new(VcpuState::read(&self.fd)))
    }
}
