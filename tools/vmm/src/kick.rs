// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Getting a thread out of `KVM_RUN`.
//!
//! A signal alone would be lost if it arrived just before the call. So its handler, in the vCPU's own thread, also sets
//! `immediate_exit` in the vCPU's shared page, which makes the call return at once.

use std::{
    cell::Cell,
    io,
    ptr::{addr_of_mut, null_mut},
    sync::OnceLock,
    thread::JoinHandle,
};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

use crate::error::Error;

thread_local! {
    /// The shared page of the vCPU that this thread runs.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(null_mut()) };
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: The page is mapped as long as the pointer is set, and only this thread uses it.
        unsafe { addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
}

/// Handles the signal, which ends the process otherwise. To be called before there are threads to kick.
pub fn install() -> Result<(), Error> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            register_signal_handler(SIGRTMIN(), on_signal).map_err(|error| error.errno())
        })
        .map_err(|errno| Error::os("cannot handle signals")(io::Error::from_raw_os_error(errno)))
}

/// As long as it lives, its thread can be kicked out of its vCPU.
pub struct Kickable(());

impl Kickable {
    /// Makes the calling thread's vCPU kickable.
    ///
    /// # Safety
    ///
    /// The vCPU must outlive the result, which must be dropped in this thread.
    pub unsafe fn new(vcpu: &mut VcpuFd) -> Self {
        RUN.set(vcpu.get_kvm_run());
        Kickable(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        RUN.set(null_mut());
    }
}

/// Kicks a thread: its current or next `KVM_RUN` returns with `EINTR`.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // The signal is valid, so the only error is that the thread is gone, which is as good.
    let _ = thread.kill(SIGRTMIN());
}
