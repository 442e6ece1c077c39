// SPDX-License-Identifier: GPL-2.0

//! Jiffies, and limits on how often an event happens.
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
    // SAFETY: The kernel writes this word at any time, so it is read by one access.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// An event that is due once per interval, on one of the CPUs.
///
/// # Examples
///
/// ```ignore
/// let seconds = Periodic::new(msecs_to_jiffies(1000));
///
/// // On any number of CPUs, again and again.
/// match seconds.claim() {
///     Ok(()) => {} // On one of them per interval.
///     Err(rest) => {} // It is due in `rest`.
/// }
/// ```
pub struct Periodic {
    interval: Jiffies,
    next: Atomic<Jiffies>,
}

impl Periodic {
    /// Makes an event that is due `interval` from now for the first time.
    pub fn new(interval: Jiffies) -> Self {
        Self {
            interval,
            next: Atomic::new(jiffies().wrapping_add(interval)),
        }
    }

    /// Claims the event if it is due, which succeeds for one of concurrent callers. Any context.
    ///
    /// # Errors
    ///
    /// The time until the event is due, which is not 0.
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

    /// Makes the event due an interval from now.
    pub fn restart(&self) {
        self.next.write_once(jiffies().wrapping_add(self.interval));
    }
}

/// A limit on how often an event happens in an interval. As `___ratelimit()`, but the caller has the lock.
pub struct RateLimit {
    interval: Jiffies,
    burst: u32,
    began: Jiffies,
    used: u32,
}

impl RateLimit {
    /// Allows the event `burst` times in each `interval`.
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
