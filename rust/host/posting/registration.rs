// SPDX-License-Identifier: GPL-2.0

//! The registration of a VM's descriptors: how it begins, and each way in which it ends.
//!
//! The guest registers its [`Descriptors`] in the thread of one vCPU, and all vCPUs find them under RCU, until the
//! registration ends for an [`EndReason`]. All ends work alike: [`Vm::exchange`] removes the descriptors, waits until
//! no thread uses them, and [closes](Descriptors::close) them. So no posted vector is lost, no state tells a sender
//! that a vCPU will poll, and the guest is told to halt instead of making idle calls.
//!
//! # Concurrency
//!
//! All of this is process context. The locks are taken in this order:
//!
//! 1. `turn` of a [vCPU](crate::vcpu::Vcpu), taken by its thread in `KVM_RUN`, where the guest registers, and by
//!    threads that read or replace the vCPU's state. It is killable;
//! 2. [`Vm::memory`], held while KVM changes a memory slot, so that the slots here and in KVM agree, and while
//!    descriptors are exchanged and closed. KVM's own locks and the VMM's `mmap_lock` are taken under it, and RCU is
//!    waited for. Or [`Vm::kicks`], held while the injector's memory is mapped. The two do not nest;
//! 3. the lock of the descriptors' [`RevocablePages`](kernel_ext::mm::revocable_pages::RevocablePages), which page
//!    faults take under the VMM's `mmap_lock`;
//! 4. leaves: [`Vm::file`], [`Vm::targets`], the vCPU's registers, and the locks of
//!    [`History`](super::history::History), [`HaltPoll`](crate::vm::halt_poll::HaltPoll),
//!    [`Polling`](crate::vm::polling::Polling) and [`Totals`](crate::stats::totals::Totals).
//!
//! [`Overlay::lending`](crate::overlay::Overlay::lending) is held during a call of KVM, with none of these before or
//! under it. The locks of [`bindings`](crate::injection::bindings) have an order of their own.
//!
//! No thread waits for a vCPU's turn while it holds one of the others, so the end of a registration never waits for a
//! vCPU in `KVM_RUN`: vCPUs use the descriptors only in RCU read-side critical sections, which end before they enter
//! the guest.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    prelude::*,
    sync::{
        atomic::Relaxed,
        rcu,
        Arc, //
    }, //
};
use kernel_ext::fs::file::FileExt;
use pvirq_protocol::{
    ioctl::{
        self,
        EndReason, //
    },
    registers::{
        Array,
        Status, //
    }, //
};

use super::descriptors::Descriptors;
use crate::{
    arch::{
        Inject,
        MsiInjector,
        VmEvents, //
    },
    kvm::{
        kvm_userspace_memory_region,
        KVM_CHECK_EXTENSION, //
    },
    vm::{
        memslots::MemSlots,
        Vm, //
    }, //
};

impl Vm {
    /// Registers descriptors, and ends the previous registration. In the VMM's process.
    pub(crate) fn register(&self, array: Array) -> Result<(), Status> {
        let len = array.check(self.irqchip.max_descriptors())?;
        if !self.irqchip.is_ready() {
            return Err(Status::NoLapic);
        }
        let file = self.file().ok_or(Status::NoMemory)?;
        let user = self.locate(&self.memory.lock(), array, len)?;
        if self.is_registered(array, user) {
            return Ok(());
        }

        // To pin pages may take the VMM's help (userfaultfd), so `memory`, which the VMM may wait for, is not held.
        let injector = MsiInjector::new(file.file().clone(), Descriptors::slots(array.count))
            .and_then(|injector| Ok(Arc::new(injector, GFP_KERNEL_ACCOUNT)?))
            .map_err(|_| Status::NoMemory)?;
        let epoch = self.host.epochs.next();
        let new = Descriptors::new(array, user, injector, self.polling.first(), epoch)?;
        let new = KBox::new(new, GFP_KERNEL_ACCOUNT).map_err(|_| Status::NoMemory)?;

        let memory = self.memory.lock();
        if self.locate(&memory, array, len)? != user || self.file().is_none() {
            return Err(Status::NotRam);
        }
        self.history.begin();
        self.exchange(&memory, Some(new), EndReason::Replaced);
        Ok(())
    }

    /// Returns the address in the VMM of an array of `len` bytes, if it may be registered.
    fn locate(&self, memory: &MemSlots, array: Array, len: u64) -> Result<u64, Status> {
        if !self.allowed.load(Relaxed) {
            return Err(Status::Forbidden);
        }
        if self.irqchip.is_private {
            return Err(Status::Private);
        }
        memory.find(array.address, len)
    }

    /// Returns whether this array is registered, at the address `user` in the VMM.
    fn is_registered(&self, array: Array, user: u64) -> bool {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .is_some_and(|descriptors| descriptors.location() == (array, user))
    }

    /// Ends the registration. Returns whether there was one.
    pub(crate) fn end(&self, why: EndReason) -> bool {
        let memory = self.memory.lock();

        self.exchange(&memory, None, why)
    }

    /// Ends the registration, if there is one, and begins that of `new`. Returns whether there was one.
    ///
    /// When this returns, no sender finds a state of an old descriptor in which a vCPU will poll, and the vectors that
    /// were pending have been injected. The caller holds [`Vm::memory`].
    fn exchange(&self, _memory: &MemSlots, new: Option<KBox<Descriptors>>, why: EndReason) -> bool {
        let Some(old) = self.descriptors.replace(new) else {
            return false;
        };

        old.close();
        self.history.end(why);
        self.update_halt_poll();
        true
    }

    /// Allows registrations, or forbids them, which ends the current one.
    pub(crate) fn set_allowed(&self, allowed: bool) {
        let memory = self.memory.lock();

        self.allowed.store(allowed, Relaxed);
        if !allowed {
            self.exchange(&memory, None, EndReason::Forbidden);
        }
    }

    /// Returns the state of the registration, for the VMM.
    pub(crate) fn registration(&self) -> ioctl::Registration {
        let history = self.history.get();
        let guard = rcu::read_lock();
        let descriptors = self.descriptors.get(&guard);
        let (array, epoch) = descriptors.map_or((Array::default(), 0), |descriptors| {
            (descriptors.location().0, descriptors.epoch().get())
        });

        ioctl::Registration {
            allowed: self.allowed.load(Relaxed).into(),
            epoch,
            count: array.count,
            ended: history.last.number(),
            address: array.address,
            registrations: history.registrations,
            ..ioctl::Registration::new()
        }
    }

    /// Changes a memory slot by `change`, which calls KVM, and ends the registration if that moves the descriptors or
    /// takes them away. `real` is KVM's file of this VM.
    ///
    /// If KVM is about to log writes to the descriptors, the registration ends before that: the log does not see the
    /// host's writes.
    pub(crate) fn change_memory(
        &self,
        real: &File,
        region: &kvm_userspace_memory_region,
        change: impl FnOnce() -> Result<isize>,
    ) -> Result<isize> {
        let mut memory = self.memory.lock();
        memory.reserve()?;
        // KVM refuses the change in other processes.
        if self.is_logged_by(region) && real.call(KVM_CHECK_EXTENSION, 0).is_ok() {
            self.exchange(&memory, None, EndReason::DirtyLogging);
        }
        let result = change()?;
        memory.set(region);

        if self.has_moved(&memory) {
            self.exchange(&memory, None, EndReason::MemoryMoved);
        }
        Ok(result)
    }

    /// Returns whether KVM, once it has accepted `region`, logs writes to the descriptors.
    fn is_logged_by(&self, region: &kvm_userspace_memory_region) -> bool {
        let guard = rcu::read_lock();

        self.descriptors.get(&guard).is_some_and(|descriptors| {
            let (array, _) = descriptors.location();

            MemSlots::logs(region, array.address, array.len())
        })
    }

    /// Returns whether the descriptors are at another address in the VMM than before, or at none.
    fn has_moved(&self, memory: &MemSlots) -> bool {
        let guard = rcu::read_lock();

        self.descriptors.get(&guard).is_some_and(|descriptors| {
            let (array, user) = descriptors.location();

            memory.find(array.address, array.len()) != Ok(user)
        })
    }
}
