// SPDX-License-Identifier: GPL-2.0

//! The registration of the descriptors with the host, and what is done when it is gone.
//!
//! A host forgets a registration when its VMM restores the guest elsewhere, replaces the state of a vCPU, moves or logs
//! memory, or forbids posting. It says so in the descriptors if it can, but an image of the guest may hold any state that
//! they had. So once a second some CPU reads the epoch of the registration, and if it is not ours, nothing that the
//! descriptors say of the host holds any more: [`Guest::make_harmless`] ends all promises, and what was posted and not
//! delivered is sent natively. Then the descriptors are registered again, at once or at one of the next checks.
//!
//! # Who checks
//!
//! - A deferrable timer of each CPU ([`Regular`]), so that idle CPUs are not woken. The CPU that waits for an interrupt to
//!   be handled is not idle.
//! - A timer of each CPU that has left an interrupt to the host since ([`Promised`]), which wakes it: after the last promise
//!   the guest may well be idle as a whole, for want of that interrupt. It expires once for all of the CPU's posts of a
//!   second, and if another CPU has checked less than a second ago, perhaps before the registration went, again when the
//!   next check is due.
//! - CPUs that come, and the last one when the system resumes.
//!
//! # Concurrency
//!
//! Checks, and all commands but the idle call, are made under a lock, with interrupts off. A timer does not wait for it.
//! Nothing is waited for under it: sending natively takes no locks.
//!
//! A sender that has read a state before [`Guest::make_harmless`] and posts after it finds that the state has changed, and
//! kicks, or its bit is seen by the drain: the protocol's rule for states that are left.

use core::fmt;
use kernel::{
    alloc::KBox,
    cpu::CpuId,
    interrupt::local_interrupt_disable,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc,
        SpinLockIrq, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    }, //
};
use kernel_ext_cpu::{
    clock::{
        Periodic,
        RateLimit, //
    },
    cpu_timer::CpuTimer,
    ipi::send_native,
    once::Once,
    topology::{
        apic_id,
        is_online,
        possible_cpus, //
    }, //
};

use crate::{
    host::Refusal,
    Guest, //
};

/// How often the epoch is read.
pub(crate) fn interval() -> Jiffies {
    msecs_to_jiffies(1000)
}

/// How many lines about it come to the log in a minute at most.
const LINES_PER_MINUTE: u32 = 8;

/// What the guest knows of its registration.
pub(crate) struct Registration {
    due: Periodic,
    /// Counts registrations, for CPUs to see that there is a new one.
    generation: Atomic<u32>,
    state: Pin<KBox<SpinLockIrq<State>>>,
}

/// The host has the descriptors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    No,
    /// And has no epochs, so that this is how it was.
    Unchecked,
    /// With this epoch.
    Epoch(u32),
}

struct State {
    registered: Registered,
    /// The descriptors are not to be registered: until all CPUs that were online at the beginning are known, and when the
    /// system stops.
    stopped: bool,
    log: RateLimit,
    counts: Counts,
}

/// What is counted, and the last that the host has said.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) registered: bool,
    pub(crate) epoch: u32,
    pub(crate) registrations: u64,
    pub(crate) losses: u64,
    pub(crate) checks: u64,
    /// Interrupts that were found pending when the registration was gone, and sent.
    pub(crate) resent: u64,
    pub(crate) refusal: Option<Refusal>,
}

/// What a check has changed.
enum Change {
    /// There was no registration, and there is one.
    Came,
    /// There was one, and there is another.
    Replaced,
    /// There is none any more.
    Went(Refusal),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Came => f.write_str("the host has the descriptors: interrupts are posted"),
            Self::Replaced => f.write_str("the host had lost the descriptors, and has them again"),
            Self::Went(refusal) => write!(
                f,
                "the host has lost the descriptors ({refusal}): interrupts are sent natively until it has them again"
            ),
        }
    }
}

impl Registration {
    pub(crate) fn new() -> Result<Self> {
        let minute = msecs_to_jiffies(60_000);
        let counts = Counts {
            registered: false,
            epoch: 0,
            registrations: 0,
            losses: 0,
            checks: 0,
            resent: 0,
            refusal: None,
        };

        Ok(Self {
            due: Periodic::new(interval()),
            generation: Atomic::new(0),
            state: KBox::pin_init(
                new_spinlock_irq!(State {
                    registered: Registered::No,
                    stopped: true,
                    log: RateLimit::new(minute, LINES_PER_MINUTE),
                    counts,
                }),
                GFP_KERNEL,
            )?,
        })
    }

    /// Returns a number that changes with each registration.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.read_once()
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state.lock();

        Counts {
            registered: state.registered != Registered::No,
            epoch: match state.registered {
                Registered::Epoch(epoch) => epoch,
                Registered::No | Registered::Unchecked => 0,
            },
            ..state.counts
        }
    }

    /// Returns whether one more line may come to the log.
    pub(crate) fn may_log(&self) -> bool {
        self.state.lock().log.allows()
    }
}

impl Guest {
    /// Registers the descriptors for the first time. If the host does not take them now, but may later, that is no error.
    pub(crate) fn begin_registration(&self) -> Result {
        let result = self.register(&mut self.registration.state.lock());

        match result {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_for_now() => {
                pr_info!(
                    "the host does not take the descriptors yet ({}): interrupts are sent natively until it does\n",
                    core::format_args!("{refusal}")
                );
                Ok(())
            }
            Err(refusal) => {
                let count = self.descriptors.array().count;

                pr_err!(
                    "the host does not take {count} descriptors: {}\n",
                    core::format_args!("{refusal}")
                );
                Err(ENODEV)
            }
        }
    }

    /// Lets the registration be checked from now on.
    pub(crate) fn settle_registration(&self) {
        self.registration.state.lock().stopped = false;
    }

    /// Checks the registration, if it has not been for an interval, and is one that may be gone. Any context but NMIs.
    ///
    /// # Errors
    ///
    /// After how long it is due again, if it was not checked now.
    pub(crate) fn check_if_due(&self) -> Result<(), Jiffies> {
        if !self.host.has_epochs() {
            return Ok(());
        }
        let change = {
            // The holder checks, or only reads the counts: it is done in a moment.
            let Some(mut state) = self.registration.state.try_lock() else {
                return Err(1);
            };

            self.registration.due.claim()?;
            self.check(&mut state)
        };

        log(change);
        Ok(())
    }

    /// Checks the registration. A host without epochs is given it again. Any context but NMIs.
    pub(crate) fn check_now(&self) {
        let change = {
            let mut state = self.registration.state.lock();

            self.registration.due.restart();
            self.check(&mut state)
        };

        log(change);
    }

    /// Ends the registration, and lets the host be given none until [`Guest::resume_registration`]. Returns whether the host
    /// uses the descriptors no more.
    pub(crate) fn end_registration(&self) -> bool {
        let mut state = self.registration.state.lock();

        state.stopped = true;
        state.registered = Registered::No;
        let ended = self.host.unregister();
        state.counts.resent += self.make_harmless();
        ended
    }

    /// Registers the descriptors again after [`Guest::end_registration`], if the host takes them now.
    pub(crate) fn resume_registration(&self) {
        self.settle_registration();
        self.check_now();
    }

    /// Makes the current CPU known to a host that has the descriptors only since, which tells nothing of others.
    #[inline]
    pub(crate) fn greet_if_new(&self, greeted: &Atomic<u32>) {
        let generation = self.registration.generation();

        if greeted.read_once() != generation {
            greeted.write_once(generation);
            self.host.greet();
        }
    }

    fn check(&self, state: &mut State) -> Option<Change> {
        if state.stopped {
            return None;
        }
        state.counts.checks += 1;
        if let Registered::Epoch(ours) = state.registered {
            if self.host.epoch() == ours {
                return None;
            }
        }

        let before = core::mem::replace(&mut state.registered, Registered::No);
        state.counts.losses += u64::from(matches!(before, Registered::Epoch(_)));
        state.counts.resent += self.make_harmless();
        let change = match (before, self.register(state)) {
            (Registered::No, Ok(())) => Change::Came,
            (Registered::Epoch(_), Ok(())) => Change::Replaced,
            (Registered::No, Err(_)) | (Registered::Unchecked, Ok(())) => return None,
            (Registered::Unchecked | Registered::Epoch(_), Err(refusal)) => Change::Went(refusal),
        };
        state.log.allows().then_some(change)
    }

    /// Registers the descriptors.
    fn register(&self, state: &mut State) -> Result<(), Refusal> {
        let result = self.host.register(self.descriptors.array());

        state.counts.refusal = result.err();
        state.registered = match result? {
            Some(epoch) => Registered::Epoch(epoch),
            None => Registered::Unchecked,
        };
        state.counts.registrations += 1;
        let generation = &self.registration.generation;
        generation.write_once(generation.read_once().wrapping_add(1));
        Ok(())
    }

    /// Ends whatever the descriptors promise of a host, and sends natively what was left to it. Returns how many
    /// interrupts that was.
    fn make_harmless(&self) -> u64 {
        let irq = local_interrupt_disable();
        let mut resent = 0;

        for cpu in possible_cpus() {
            let Some(descriptor) = apic_id(cpu).and_then(|id| self.descriptors.get(id)) else {
                continue;
            };
            let pending = descriptor.close();
            if !is_online(cpu) {
                continue;
            }
            for vector in pending {
                resent += u64::from(send_native(vector.get(), cpu, &irq));
            }
        }
        resent
    }
}

fn log(change: Option<Change>) {
    if let Some(change) = change {
        pr_info!("{}\n", core::format_args!("{change}"));
    }
}

/// Checks the registration as long as the CPU is not idle.
pub(crate) struct Regular(pub(crate) Arc<Guest>);

impl CpuTimer for Regular {
    const DEFERRABLE: bool = true;

    fn expired(&self, id: CpuId) -> Option<Jiffies> {
        let guest = &*self.0;

        // If another CPU has checked since, this one may be the only one that is awake when it is due again.
        let next = guest.check_if_due().err().unwrap_or_else(interval);
        if let Some(cpu) = guest.cpus.get(id) {
            guest.greet_if_new(cpu.greeted());
        }
        Some(next)
    }
}

/// Checks the registration after the CPU has left an interrupt to the host.
pub(crate) struct Promised(pub(crate) Arc<Guest>);

impl CpuTimer for Promised {
    const DEFERRABLE: bool = false;

    fn expired(&self, _id: CpuId) -> Option<Jiffies> {
        self.0.check_if_due().err()
    }
}
