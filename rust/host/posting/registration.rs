// SPDX-License-Identifier: GPL-2.0

//! The registration of a VM's descriptors: how it begins, and each way in which it ends.
//!
//! The guest registers its [`Descriptors`] in the thread of one vCPU, and all vCPUs find them under RCU. They stay until
//! an [`EndReason`] says otherwise. All ends are one: [`Vm::exchange`] takes the descriptors away, waits until no vCPU
//! uses them, and [closes](Descriptors::close) them. So nothing that was posted is lost, no state says that a vCPU will
//! look, and the guest is told to halt rather than to call.
//!
//! # Concurrency
//!
//! All of it is process context. The locks are taken in this order:
//!
//! 1. The `turn` of a [vCPU](crate::vcpu::Vcpu), taken by its thread in `KVM_RUN`, where the guest registers, and by threads that
//!    read or replace that vCPU's state. It is killable;
//! 2. the vCPU's registers;
//! 3. [`Vm::memory`], held while KVM changes a memory slot, so that both agree, and while descriptors are exchanged and
//!    closed. Under it KVM's own locks are taken, the VMM's memory is written, and RCU is waited for;
//! 4. [`Vm::file`] and the locks of [`History`](super::history::History) and [`HaltPoll`](crate::vm::halt_poll::HaltPoll). They are leaves.
//!
//! No thread waits for a vCPU's turn with one of the others held, so that an end never waits for a vCPU in `KVM_RUN`:
//! vCPUs look at the descriptors in RCU's critical sections only, which they leave before they enter the guest.

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
    /// Registers descriptors, in the place of those before them. In the VMM's process.
    pub(crate) fn register(&self, array: Array) -> Result<(), Status> {
        let len = array.check(self.irqchip.max_descriptors())?;
        if !self.irqchip.is_ready() {
            return Err(Status::NoLapic);
        }
        let file = self.file().ok_or(Status::NoMemory)?;
        let user = self.place(&self.memory.lock(), array, len)?;
        if self.is_registered(array, user) {
            return Ok(());
        }

        // To pin pages can take the VMM's help, so it must not wait for us meanwhile.
        let messages = MsiInjector::new(file.file().clone(), Descriptors::slots(array.count))
            .and_then(|messages| Ok(Arc::new(messages, GFP_KERNEL_ACCOUNT)?))
            .map_err(|_| Status::NoMemory)?;
        let epoch = self.host.epochs.next();
        let new = Descriptors::new(array, user, messages, self.polling.first(), epoch)?;
        let new = KBox::new(new, GFP_KERNEL_ACCOUNT).map_err(|_| Status::NoMemory)?;

        let memory = self.memory.lock();
        if self.place(&memory, array, len)? != user || self.file().is_none() {
            return Err(Status::NotRam);
        }
        self.history.begin();
        self.exchange(&memory, Some(new), EndReason::Replaced);
        Ok(())
    }

    /// Returns where an array of `len` bytes is in the VMM, if descriptors may be registered there.
    fn place(&self, memory: &MemSlots, array: Array, len: u64) -> Result<u64, Status> {
        if !self.allowed.load(Relaxed) {
            return Err(Status::Forbidden);
        }
        if self.irqchip.is_private {
            return Err(Status::Private);
        }
        memory.find(array.address, len)
    }

    /// Returns whether these descriptors are registered, and `user` is where they are in the VMM.
    fn is_registered(&self, array: Array, user: u64) -> bool {
        let guard = rcu::read_lock();

        self.descriptors
            .get(&guard)
            .is_some_and(|descriptors| descriptors.place() == (array, user))
    }

    /// Ends the registration, and returns whether there was one.
    pub(crate) fn end(&self, why: EndReason) -> bool {
        let memory = self.memory.lock();

        self.exchange(&memory, None, why)
    }

    /// Ends the registration, if there is one, and puts `new` in its place. Returns whether there was one.
    ///
    /// When this returns, no sender finds a state by which a vCPU will look, and what was pending has been injected.
    fn exchange(&self, _memory: &MemSlots, new: Option<KBox<Descriptors>>, why: EndReason) -> bool {
        let Some(old) = self.descriptors.replace(new) else {
            return false;
        };

        old.close();
        self.history.end(why);
        self.update_halt_poll();
        true
    }

    /// Allows registrations, or forbids them, which ends the one there is.
    pub(crate) fn set_allowed(&self, allowed: bool) {
        let memory = self.memory.lock();

        self.allowed.store(allowed, Relaxed);
        if !allowed {
            self.exchange(&memory, None, EndReason::Forbidden);
        }
    }

    /// Returns what there is to say of the registration.
    pub(crate) fn registration(&self) -> ioctl::Registration {
        let history = self.history.get();
        let guard = rcu::read_lock();
        let descriptors = self.descriptors.get(&guard);
        let (array, epoch) = descriptors.map_or((Array::default(), 0), |descriptors| {
            (descriptors.place().0, descriptors.epoch().get())
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

    /// Changes a memory slot by `change`, which calls KVM on `real`, its file of this VM, and ends the registration if
    /// the descriptors are not where they were any more.
    ///
    /// If KVM is to log writes to the descriptors, that ends the registration first: what the host writes there is in no
    /// log.
    pub(crate) fn change_memory(
        &self,
        real: &File,
        region: &kvm_userspace_memory_region,
        change: impl FnOnce() -> Result<isize>,
    ) -> Result<isize> {
        let mut memory = self.memory.lock();
        memory.reserve()?;
        // KVM refuses other processes.
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
            let (array, _) = descriptors.place();

            MemSlots::logs(region, array.address, array.len())
        })
    }

    /// Returns whether the descriptors are at another place in the VMM than they were, or at none.
    fn has_moved(&self, memory: &MemSlots) -> bool {
        let guard = rcu::read_lock();

        self.descriptors.get(&guard).is_some_and(|descriptors| {
            let (array, user) = descriptors.place();

            memory.find(array.address, array.len()) != Ok(user)
        })
    }
}
