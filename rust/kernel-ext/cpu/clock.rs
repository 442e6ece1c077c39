// SPDX-License-Identifier: GPL-2.0

//! The kernel's coarse clock, and events that come no more often than it says.
//!
//! C header: [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

use kernel::{
    bindings,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::Jiffies, //
};

use crate::read_once::ReadOnce;

/// Returns the time in jiffies. Any context.
#[inline]
pub fn jiffies() -> Jiffies {
    // SAFETY: It is a word that the kernel writes at any time, so that it is read at once.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// Something that is due once in an interval, on one of the CPUs.
///
/// # Examples
///
/// ```ignore
/// let seconds = Periodic::new(msecs_to_jiffies(1000));
///
/// // On any number of CPUs, again and again.
/// match seconds.claim() {
///     Ok(()) => {} // On one of them.
///     Err(rest) => {} // Another had it, and it is due again in so long.
/// }
/// ```
pub struct Periodic {
    interval: Jiffies,
    next: Atomic<Jiffies>,
}

impl Periodic {
    /// It is due `interval` from now for the first time.
    pub fn new(interval: Jiffies) -> Self {
        Self {
            interval,
            next: Atomic::new(jiffies().wrapping_add(interval)),
        }
    }

    /// Takes it, if it is due, which succeeds for one of those who ask. The others are told after how long it is due again,
    /// which is not 0. Any context.
    pub fn claim(&self) -> Result<(), Jiffies> {
        let now = jiffies();
        let next = self.next.read_once();
        let rest = next.wrapping_sub(now);

        // As `time_after()`.
        if rest as isize > 0 {
            return Err(rest);
        }
        match self
            .next
            .cmpxchg(next, now.wrapping_add(self.interval), Relaxed)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(self.interval),
        }
    }

    /// Lets it be due the next time an interval from now.
    pub fn restart(&self) {
        self.next.write_once(jiffies().wrapping_add(self.interval));
    }
}

/// Lets an event happen some times in an interval, and no more often. As `___ratelimit()`, but that its caller has the lock.
pub struct RateLimit {
    interval: Jiffies,
    burst: u32,
    began: Jiffies,
    used: u32,
}

impl RateLimit {
    /// Lets it happen `burst` times in each `interval`.
    pub fn new(interval: Jiffies, burst: u32) -> Self {
        Self {
            interval,
            burst,
            began: jiffies(),
            used: 0,
        }
    }

    /// Returns whether the event may happen now, and counts it if so.
    pub fn allows(&mut self) -> bool {
        let now = jiffies();

        if now.wrapping_sub(self.began) >= self.interval {
            self.began = now;
            self.used = 0;
        }
        let allowed = self.used < self.burst;
        self.used += u32::from(allowed);
        allowed
    }
}
