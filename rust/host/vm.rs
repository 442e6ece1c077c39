// SPDX-License-Identifier: GPL-2.0

//! VMs.
//!
//! # Concurrency
//!
//! The lock order is in [`registration`](crate::posting::registration). [`Vm::file`] and the VMM's `mmap_lock` are
//! taken under [`Vm::memory`] and [`Vm::kicks`], never the other way round. [`Vm::file`] and [`Vm::targets`] are
//! leaves.

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
    PollingState, //
};
use kick_target::KickTarget;
use memslots::MemSlots;
use polling::Polling;

/// The state that the files of one VM share. It lives as long as any of them, as KVM's own VM does.
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
    /// Whether the VMM allows registrations. Written under `memory`.
    pub(crate) allowed: Atomic<bool>,
    #[pin]
    pub(crate) history: History,
    /// KVM's file, until the VMM closes ours.
    #[pin]
    file: Mutex<Option<kvm_glue::VmFile>>,
    /// All vCPUs ever made. KVM makes none twice, so each ID is found once.
    #[pin]
    targets: Mutex<List<KickTarget>>,
    /// Injects the vectors of kicks: made for the first vCPU that can be kicked, and kept until the VMM closes our
    /// file.
    #[pin]
    kicks: Mutex<Option<Arc<MsiInjector>>>,
}

impl Vm {
    /// Creates the state of a VM that KVM has made with the type `vm_type`.
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
            memory <- new_mutex!(MemSlots::new(), "pvirq_vm_memory"),
            allowed: Atomic::new(true),
            history <- History::new(),
            file <- new_mutex!(Some(file), "pvirq_vm_file"),
            targets <- new_mutex!(List::new(), "pvirq_vm_targets"),
            kicks <- new_mutex!(None, "pvirq_vm_kicks"),
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

    /// Returns the vCPU with this ID.
    pub(crate) fn target(&self, id: u32) -> Option<Arc<KickTarget>> {
        let targets = self.targets.lock();

        let target = targets.iter().find(|target| target.id == id)?;
        Some(target.into())
    }

    /// Prepares a vCPU for [kicks](KickTarget::kick). In the VMM's process.
    pub(crate) fn prepare_kicks(&self, target: &KickTarget) -> Result {
        let mut kicks = self.kicks.lock();

        if kicks.is_none() {
            let file = self.file().ok_or(ENODEV)?;
            let injector = MsiInjector::new(file.file().clone(), Irqchip::MAX_IDS)?;
            *kicks = Some(Arc::new(injector, GFP_KERNEL_ACCOUNT)?);
        }
        drop(kicks);
        target.track()
    }

    /// Returns the injector for the vectors of kicks. A vCPU's thread uses the slot of the vCPU's ID.
    pub(crate) fn kicks(&self) -> Option<Arc<MsiInjector>> {
        self.kicks.lock().clone()
    }

    /// Returns the epoch of the guest's registration, 0 if there is none.
    pub(crate) fn epoch(&self) -> u32 {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .map_or(0, |descriptors| descriptors.epoch().get())
    }

    /// Notes that the guest has made an idle call in the registration `epoch`.
    pub(crate) fn begin_idle_calls(&self, epoch: u32) {
        if let Some(file) = self.file() {
            self.halt_poll.idle(&file, epoch, || self.polling_state());
        }
    }

    /// Recomputes KVM's own polling. Called after the registration or the windows have changed.
    pub(crate) fn update_halt_poll(&self) {
        if let Some(file) = self.file() {
            self.halt_poll.update(&file, || self.polling_state());
        }
    }

    /// Returns the state that KVM's own polling depends on.
    pub(crate) fn polling_state(&self) -> PollingState {
        PollingState {
            epoch: self.epoch(),
            has_windows: self.polling.has_windows(),
        }
    }

    /// Drops all references to KVM's file. Called when the VMM closes ours.
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
