// SPDX-License-Identifier: GPL-2.0

//! KVM's own polling for the halted vCPUs of a VM (`KVM_CAP_HALT_POLL`).
//!
//! It sees no posts, and would come on top of ours. So it is switched off while ours takes its place: from the first idle
//! call of a registration until that ends, as long as there is a window at all. The rest of the time it is what the VMM has
//! set last, or KVM's parameter if it has set nothing. A VMM that sets it while it is switched off has its way until the
//! registration ends.
//!
//! # Concurrency
//!
//! The lock is a leaf, for process context. What the answer depends on, the registration and the windows, is looked at
//! with the lock held, and who changes those calls this afterwards: the last of them sees what all have done.

use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};
use kvm_glue::VmFile;

/// Who says how long KVM polls in a VM.
#[pin_data]
pub(crate) struct HaltPoll {
    #[pin]
    inner: Mutex<Inner>,
}

struct Inner {
    /// What the VMM has set last.
    vmm: Option<u32>,
    /// The registration in which the guest has made an idle call, 0 if it has made none.
    idle_in: u32,
    /// The registration in which the VMM has set it, 0 if in none.
    set_in: u32,
    /// Whether KVM's polling is switched off.
    taken: bool,
}

/// What decides whether KVM's polling is needed.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    /// The guest's registration, 0 if there is none.
    pub(crate) epoch: u32,
    /// Whether vCPUs may poll, in the guest or in the host.
    pub(crate) windows: bool,
}

impl HaltPoll {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                vmm: None,
                idle_in: 0,
                set_in: 0,
                taken: false,
            }),
        })
    }

    /// Notes that the guest has made an idle call in the registration `epoch`. `vm` is KVM's file of the VM.
    pub(crate) fn idle(&self, vm: &VmFile, epoch: u32, need: impl FnOnce() -> Need) {
        let mut inner = self.inner.lock();
        let need = need();

        // Otherwise it has ended since.
        if need.epoch == epoch {
            inner.idle_in = epoch;
            inner.update(vm, need);
        }
    }

    /// Notes that the VMM has set it: KVM has been told.
    pub(crate) fn set(&self, vm: &VmFile, max_ns: u32, need: impl FnOnce() -> Need) {
        let mut inner = self.inner.lock();

        inner.vmm = Some(max_ns);
        inner.set_in = need().epoch;
        // KVM may have been told before it was switched off.
        if inner.taken {
            inner.taken = false;
            vm.set_halt_poll(inner.vmm);
        }
    }

    /// Decides again, as the registration or the windows have changed.
    pub(crate) fn update(&self, vm: &VmFile, need: impl FnOnce() -> Need) {
        self.inner.lock().update(vm, need());
    }
}

impl Inner {
    fn update(&mut self, vm: &VmFile, need: Need) {
        let registered = need.epoch != 0;
        let ours = self.idle_in == need.epoch && self.set_in != need.epoch;
        let take = registered && ours && need.windows;
        if take == self.taken {
            return;
        }

        self.taken = take;
        vm.set_halt_poll(if take { Some(0) } else { self.vmm });
    }
}
