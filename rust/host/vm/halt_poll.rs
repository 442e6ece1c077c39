// SPDX-License-Identifier: GPL-2.0

//! KVM's own polling for the halted vCPUs of a VM (`KVM_CAP_HALT_POLL`).
//!
//! KVM's polling does not see posts, and would add to pvirq's. So pvirq switches it off while it polls itself: from the
//! first idle call of a registration until the registration ends, as long as a window is longer than 0. The rest of the
//! time KVM polls as the VMM has set last, or as its parameter says. If the VMM sets it while it is off, that holds
//! until the registration ends.
//!
//! # Concurrency
//!
//! The lock is a leaf, for process context. The registration and the windows are read under it, and each thread that
//! changes them calls [`HaltPoll::update`] afterwards: the last call sees all changes.

use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};
use kvm_glue::VmFile;

/// The setting of KVM's own polling in a VM.
#[pin_data]
pub(crate) struct HaltPoll {
    #[pin]
    inner: Mutex<Inner>,
}

struct Inner {
    /// The VMM's last setting, in ns.
    vmm_max_ns: Option<u32>,
    /// The epoch of the registration in which the guest has made an idle call, 0 if it has made none.
    idle_epoch: u32,
    /// The epoch of the registration in which the VMM has set it, 0 if in none.
    vmm_epoch: u32,
    /// Whether pvirq has switched KVM's polling off.
    is_off: bool,
}

/// The state that KVM's own polling depends on.
#[derive(Clone, Copy)]
pub(crate) struct PollingState {
    /// The epoch of the guest's registration, 0 if there is none.
    pub(crate) epoch: u32,
    /// Whether vCPUs may poll, in the guest or in the host.
    pub(crate) has_windows: bool,
}

impl HaltPoll {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                vmm_max_ns: None,
                idle_epoch: 0,
                vmm_epoch: 0,
                is_off: false,
            }, "pvirq_vm_halt_poll"),
        })
    }

    /// Notes that the guest has made an idle call in the registration `epoch`. `vm` is KVM's file of the VM.
    pub(crate) fn idle(&self, vm: &VmFile, epoch: u32, state: impl FnOnce() -> PollingState) {
        let mut inner = self.inner.lock();
        let state = state();

        // Otherwise the registration has ended since.
        if state.epoch == epoch {
            inner.idle_epoch = epoch;
            inner.update(vm, state);
        }
    }

    /// Notes that KVM has accepted the VMM's setting.
    pub(crate) fn set(&self, vm: &VmFile, max_ns: u32, state: impl FnOnce() -> PollingState) {
        let mut inner = self.inner.lock();

        inner.vmm_max_ns = Some(max_ns);
        inner.vmm_epoch = state().epoch;
        // Another thread may have switched it off after KVM accepted the setting.
        if inner.is_off {
            inner.is_off = false;
            vm.set_halt_poll(inner.vmm_max_ns);
        }
    }

    /// Recomputes KVM's polling. Called after the registration or the windows have changed.
    pub(crate) fn update(&self, vm: &VmFile, state: impl FnOnce() -> PollingState) {
        self.inner.lock().update(vm, state());
    }
}

impl Inner {
    fn update(&mut self, vm: &VmFile, state: PollingState) {
        let registered = state.epoch != 0;
        let is_idle = self.idle_epoch == state.epoch;
        let vmm_has_set = self.vmm_epoch == state.epoch;
        let is_off = registered && is_idle && !vmm_has_set && state.has_windows;
        if is_off == self.is_off {
            return;
        }

        self.is_off = is_off;
        vm.set_halt_poll(if is_off { Some(0) } else { self.vmm_max_ns });
    }
}
