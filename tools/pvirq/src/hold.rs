// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeping one vCPU out of `KVM_RUN` while the others run, as a debugger does that stops its thread.

use std::{
    os::unix::thread::RawPthread,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::kick;

#[derive(Default)]
struct State {
    /// The vCPU's thread, as long as it lives.
    thread: Option<RawPthread>,
    /// Whether the vCPU shall not run.
    wanted: bool,
    /// Whether its thread waits, out of `KVM_RUN`.
    held: bool,
}

/// Keeps a vCPU out of `KVM_RUN`.
#[derive(Default)]
pub struct Hold {
    state: Mutex<State>,
    changed: Condvar,
}

/// As long as it lives, its thread is the one to be held.
pub struct Entered<'a>(&'a Hold);

impl Hold {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_while(self.state(), condition)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the calling thread the one to be held.
    pub(crate) fn enter(&self) -> Entered<'_> {
        // SAFETY: This has no preconditions.
        self.state().thread = Some(unsafe { libc::pthread_self() });
        Entered(self)
    }

    /// Waits in the vCPU's thread, which has been kicked out of its vCPU, as long as the vCPU is held. Says whether it was.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state();
        if !state.wanted {
            return false;
        }
        state.held = true;
        drop(state);
        self.changed.notify_all();
        self.wait_while(|state| state.wanted).held = false;
        self.changed.notify_all();
        true
    }

    /// Gets the vCPU out of `KVM_RUN`, if it runs, and keeps it out until it is [released](Self::release). Says whether
    /// its thread is there to be held; if it waits for orders, this waits until it gets one.
    pub fn hold(&self) -> bool {
        let mut state = self.state();
        let Some(thread) = state.thread else {
            return false;
        };
        state.wanted = true;
        // The thread cannot end meanwhile: it takes the lock for that.
        kick::kick_thread(thread);
        drop(state);
        self.wait_while(|state| !state.held && state.thread.is_some())
            .held
    }

    /// Lets the vCPU run again, and waits until its thread is about to.
    pub fn release(&self) {
        self.state().wanted = false;
        self.changed.notify_all();
        drop(self.wait_while(|state| state.held && state.thread.is_some()));
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.state().thread = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn a_thread_that_is_gone_is_not_held() {
        let hold = Hold::default();
        assert!(!hold.hold());
        drop(hold.enter());
        assert!(!hold.hold());
        hold.release();
    }

    #[test]
    fn a_thread_waits_until_it_is_released() {
        kick::install().unwrap();
        let hold = Arc::new(Hold::default());
        let other = hold.clone();
        let (entered, is_there) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let _entered = other.enter();
            entered.send(()).unwrap();
            while !other.wait() {
                thread::yield_now();
            }
        });
        is_there.recv().unwrap();
        assert!(hold.hold());
        hold.release();
        thread.join().unwrap();
        assert!(!hold.hold());
    }
}
