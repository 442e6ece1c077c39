// SPDX-License-Identifier: GPL-2.0

//! VMs.
//!
//! # Concurrency
//!
//! [`Vm::memory`] and its place among other locks are described in [`registration`](crate::posting::registration). It
//! is never taken with the VMM's memory map locked. [`Vm::kicks`] is held while memory is mapped. [`Vm::file`] and
//! [`Vm::targets`] are leaves.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    list::{
        List,
        ListArc, //
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::Atomic,
        rcu,
        Arc,
        Mutex, //
    }, //
};
use kernel_ext::{
    sched::preempt::PreemptNotifiers,
    sync::rcu_box::RcuBox, //
};

use crate::{
    arch::{
        Inject,
        Irqchip,
        MsiInjector, //
    },
    host::Host,
    posting::{
        descriptors::Descriptors,
        history::History, //
    }, //
};

pub(crate) mod halt_poll;
pub(crate) mod kick_target;
pub(crate) mod memslots;
pub(crate) mod moderation;
pub(crate) mod polling;

use halt_poll::{
    HaltPoll,
    Need, //
};
use kick_target::KickTarget;
use memslots::MemSlots;
use polling::Polling;

/// What the files of one VM share.
///
/// It lives as long as any of them, as the VM does in KVM.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    pub(crate) host: Arc<Host>,
    pub(crate) notifiers: PreemptNotifiers,
    pub(crate) descriptors: RcuBox<Descriptors>,
    pub(crate) irqchip: Irqchip,
    #[pin]
    pub(crate) polling: Polling,
    #[pin]
    pub(crate) halt_poll: HaltPoll,
    #[pin]
    pub(crate) memory: Mutex<MemSlots>,
    /// Whether the VMM allows registrations. Written with `memory` locked.
    pub(crate) allowed: Atomic<bool>,
    #[pin]
    pub(crate) history: History,
    /// KVM's file, as long as the VMM has ours.
    #[pin]
    file: Mutex<Option<kvm_glue::VmFile>>,
    /// All vCPUs that there have been: KVM makes none twice.
    #[pin]
    targets: Mutex<List<KickTarget>>,
    /// What injects the vectors that vCPUs are kicked for, if they are, as long as the VMM has our file.
    #[pin]
    kicks: Mutex<Option<Arc<MsiInjector>>>,
}

impl Vm {
    /// Makes one of a VM that KVM has made with this type.
    pub(crate) fn new(
        host: Arc<Host>,
        file: kvm_glue::VmFile,
        vm_type: usize,
    ) -> impl PinInit<Self> {
        host.totals.begin_vm();
        let polling = Polling::new(&host.poll);
        pin_init!(Self {
            host,
            notifiers: PreemptNotifiers::enable(),
            descriptors: RcuBox::empty(),
            irqchip: Irqchip::new(vm_type),
            polling <- polling,
            halt_poll <- HaltPoll::new(),
            memory <- new_mutex!(MemSlots::new()),
            allowed: Atomic::new(true),
            history <- History::new(),
            file <- new_mutex!(Some(file)),
            targets <- new_mutex!(List::new()),
            kicks <- new_mutex!(None),
        })
    }

    /// Returns KVM's file, if the VMM still has ours.
    pub(crate) fn file(&self) -> Option<kvm_glue::VmFile> {
        self.file.lock().clone()
    }

    /// Adds a vCPU.
    pub(crate) fn add_target(&self, target: ListArc<KickTarget>) {
        self.targets.lock().push_back(target);
    }

    /// Returns the vCPU with this number.
    pub(crate) fn target(&self, id: u32) -> Option<Arc<KickTarget>> {
        let targets = self.targets.lock();

        let target = targets.iter().find(|target| target.id == id)?;
        Some(target.into())
    }

    /// Makes sure that a vCPU can be [kicked](KickTarget::kick). In the VMM's process.
    pub(crate) fn prepare_kicks(&self, target: &KickTarget) -> Result {
        let mut kicks = self.kicks.lock();

        if kicks.is_none() {
            let file = self.file().ok_or(ENODEV)?;
            let messages = MsiInjector::new(file.file().clone(), Irqchip::MAX_IDS)?;
            *kicks = Some(Arc::new(messages, GFP_KERNEL_ACCOUNT)?);
        }
        drop(kicks);
        target.track()
    }

    /// Returns what injects the vectors that vCPUs are kicked for, each vCPU in the slot of its number.
    pub(crate) fn kicks(&self) -> Option<Arc<MsiInjector>> {
        self.kicks.lock().clone()
    }

    /// Returns the number of the guest's registration, 0 if there is none.
    pub(crate) fn epoch(&self) -> u32 {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .map_or(0, |descriptors| descriptors.epoch().get())
    }

    /// Notes that the guest has made an idle call in the registration `epoch`.
    pub(crate) fn begin_idle_calls(&self, epoch: u32) {
        if let Some(file) = self.file() {
            self.halt_poll.idle(&file, epoch, || self.need_of_polling());
        }
    }

    /// Decides again how long KVM should poll, as the registration or the windows have changed.
    pub(crate) fn update_halt_poll(&self) {
        if let Some(file) = self.file() {
            self.halt_poll.update(&file, || self.need_of_polling());
        }
    }

    /// Returns whether KVM's own polling is needed.
    pub(crate) fn need_of_polling(&self) -> Need {
        Need {
            epoch: self.epoch(),
            windows: self.polling.has_windows(),
        }
    }

    /// Drops what may be used no longer than the VMM has our file.
    pub(crate) fn close_file(&self) {
        let kicks = self.kicks.lock().take();
        let file = self.file.lock().take();

        drop((kicks, file));
    }
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        self.host.totals.end_vm();
    }
}
