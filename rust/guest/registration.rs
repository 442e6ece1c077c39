// SPDX-License-Identifier: GPL-2.0

//! The registration of the descriptors with the host, and its renewal after the host has ended it.
//!
//! A registration ends when the VMM restores the guest elsewhere, replaces the state of a vCPU, moves or logs memory, or
//! forbids posting. The host closes the descriptors if it can, but an image of the guest may hold any state that they had.
//! So once a second some CPU reads the epoch. If it is not that of our registration, what the descriptors say of the host
//! no longer holds: [`Registration::make_harmless`] closes them, and sends natively what was posted and not delivered. Then
//! the descriptors are registered again, at once or at a later check.
//!
//! # Checks
//!
//! - By a deferrable timer of each CPU ([`Regular`](crate::checks::Regular)), which wakes no idle CPU. A CPU that waits
//!   for an interrupt to be handled is not idle.
//! - By a timer that wakes its CPU ([`Promised`](crate::checks::Promised)), within a second after the CPU has left an
//!   interrupt to the host: if that was lost, the whole guest may be idle for lack of it. It expires once for all posts of
//!   a second. If another CPU has checked less than a second ago, perhaps before the registration ended, it expires again
//!   when the next check is due.
//! - When a CPU comes online, and on the last one when the system resumes.
//!
//! # Concurrency
//!
//! Checks, and all commands but the idle call, are made under a lock, with interrupts off. A timer does not wait for it.
//! Nothing waits under it: sending natively takes no locks.
//!
//! A sender that has read a state before [`Registration::make_harmless`] and posts after it either finds that the state has
//! changed, and kicks, or the drain takes its bit: the protocol's rule for leaving a state.

use core::fmt;
use kernel::{
    alloc::KBox,
    interrupt::local_interrupt_disable,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::Atomic,
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
    ipi::send_native,
    read_once::ReadOnce,
    topology::{
        is_online,
        possible_cpus, //
    }, //
};

use pvirq_protocol::{
    registers::Array,
    Descriptor, //
};

use crate::{
    arch::{
        Addresses,
        CpuAddress, //
    },
    descriptors::Descriptors,
    host::{
        Host,
        Refusal, //
    }, //
};

/// The time between checks of the epoch.
pub(crate) fn interval() -> Jiffies {
    msecs_to_jiffies(1000)
}

/// The most lines about registrations in the log per minute.
const LINES_PER_MINUTE: u32 = 8;

/// The registration of descriptors with a host.
pub(crate) struct Registration {
    host: Host,
    descriptors: Descriptors,
    due: Periodic,
    /// Counts registrations, by which CPUs notice a new one.
    generation: Atomic<u32>,
    state: Pin<KBox<SpinLockIrq<State>>>,
}

/// Whether the host has the descriptors, when that was last checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    No,
    /// Yes, but the host has no epochs to check.
    Unchecked,
    /// Yes, with this epoch.
    Epoch(u32),
}

struct State {
    registered: Registered,
    /// Checks do nothing: until the online callback of each CPU has run for the first time, and after [`Registration::end`].
    stopped: bool,
    log: RateLimit,
    counts: Counts,
}

/// Counters, and the last refusal of the host.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) registered: bool,
    pub(crate) epoch: u32,
    pub(crate) registrations: u64,
    pub(crate) losses: u64,
    pub(crate) checks: u64,
    /// Interrupts that were found pending when the registration had ended, and sent natively.
    pub(crate) resent: u64,
    pub(crate) refusal: Option<Refusal>,
}

/// The change that a check has found or made.
enum Change {
    /// There was no registration, and there is one.
    Gained,
    /// There was a registration, and there is another.
    Replaced,
    /// There was a registration, and there is none.
    Lost(Refusal),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gained => f.write_str("the host has the descriptors: interrupts are posted"),
            Self::Replaced => f.write_str("the host had lost the descriptors, and has them again"),
            Self::Lost(refusal) => write!(
                f,
                "the host has lost the descriptors ({refusal}): interrupts are sent natively until it has them again"
            ),
        }
    }
}

impl Registration {
    /// Registers descriptors for the first time. It is not an error if the host refuses them now but may take them later.
    /// There are no checks before [`Registration::allow_checks`].
    pub(crate) fn begin(host: Host, descriptors: Descriptors) -> Result<Self> {
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

        let this = Self {
            host,
            descriptors,
            due: Periodic::new(interval()),
            generation: Atomic::new(0),
            state: KBox::pin_init(
                new_spinlock_irq!(
                    State {
                        registered: Registered::No,
                        stopped: true,
                        log: RateLimit::new(minute, LINES_PER_MINUTE),
                        counts,
                    },
                    "pvirq_guest_registration"
                ),
                GFP_KERNEL,
            )?,
        };

        let result = this.register(&mut this.state.lock());
        match result {
            Ok(()) => Ok(this),
            Err(refusal) if refusal.is_temporary() => {
                pr_info!(
                    "the host does not take the descriptors yet ({}): interrupts are sent natively until it does\n",
                    core::format_args!("{refusal}")
                );
                Ok(this)
            }
            Err(refusal) => {
                let count = this.descriptors.array().count;

                pr_err!(
                    "the host does not take {count} descriptors: {}\n",
                    core::format_args!("{refusal}")
                );
                Err(ENODEV)
            }
        }
    }

    /// Returns the host.
    #[inline]
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Returns a descriptor by its index.
    #[inline]
    pub(crate) fn descriptor(&self, index: u32) -> Option<&Descriptor> {
        self.descriptors.get(index)
    }

    /// Returns the address and the number of the descriptors.
    pub(crate) fn array(&self) -> Array {
        self.descriptors.array()
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

    /// Returns whether the log may get another line, and counts it if so.
    pub(crate) fn may_log(&self) -> bool {
        self.state.lock().log.allows()
    }

    /// Allows checks.
    pub(crate) fn allow_checks(&self) {
        self.state.lock().stopped = false;
    }

    /// Checks the registration if that is due, and if the host has epochs. Any context but NMIs.
    ///
    /// # Errors
    ///
    /// The time until a check is due, if there was none.
    pub(crate) fn check_if_due(&self) -> Result<(), Jiffies> {
        if !self.host.has_epochs() {
            return Ok(());
        }
        let change = {
            // The holder checks, or only reads the counts: it is done in a moment.
            let Some(mut state) = self.state.try_lock() else {
                return Err(1);
            };

            self.due.claim()?;
            self.check(&mut state)
        };

        log(change);
        Ok(())
    }

    /// Checks the registration, and registers again with a host without epochs. Any context but NMIs.
    pub(crate) fn check_now(&self) {
        let change = {
            let mut state = self.state.lock();

            self.due.restart();
            self.check(&mut state)
        };

        log(change);
    }

    /// Ends the registration, until [`Registration::resume`]. Returns whether the host no longer uses the descriptors.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();

        state.stopped = true;
        state.registered = Registered::No;
        let ended = self.host.unregister();
        state.counts.resent += self.make_harmless();
        ended
    }

    /// Registers the descriptors again after [`Registration::end`], if the host takes them now.
    pub(crate) fn resume(&self) {
        self.allow_checks();
        self.check_now();
    }

    /// Announces the current CPU to the host if there has been a registration since `announced`, the last one for which it
    /// did.
    #[inline]
    pub(crate) fn announce_if_new(&self, announced: &Atomic<u32>) {
        let generation = self.generation();

        if announced.read_once() != generation {
            announced.write_once(generation);
            self.host.announce();
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
            (Registered::No, Ok(())) => Change::Gained,
            (Registered::Epoch(_), Ok(())) => Change::Replaced,
            (Registered::No, Err(_)) | (Registered::Unchecked, Ok(())) => return None,
            (Registered::Unchecked | Registered::Epoch(_), Err(refusal)) => Change::Lost(refusal),
        };
        state.log.allows().then_some(change)
    }

    fn register(&self, state: &mut State) -> Result<(), Refusal> {
        let result = self.host.register(self.descriptors.array());

        state.counts.refusal = result.err();
        state.registered = match result? {
            Some(epoch) => Registered::Epoch(epoch),
            None => Registered::Unchecked,
        };
        state.counts.registrations += 1;
        let generation = &self.generation;
        generation.write_once(generation.read_once().wrapping_add(1));
        Ok(())
    }

    /// Closes all descriptors, so that they promise nothing of a host, and sends natively what was pending in them. Returns
    /// how many interrupts that was.
    fn make_harmless(&self) -> u64 {
        let irq = local_interrupt_disable();
        let mut resent = 0;

        for cpu in possible_cpus() {
            let Some(descriptor) =
                Addresses::index_of(cpu).and_then(|index| self.descriptors.get(index))
            else {
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

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.end() {
            // The host may still write to them.
            pr_err!("the host does not release the descriptors: their memory is leaked\n");
            self.descriptors.keep();
        }
    }
}

fn log(change: Option<Change>) {
    if let Some(change) = change {
        pr_info!("{}\n", core::format_args!("{change}"));
    }
}
