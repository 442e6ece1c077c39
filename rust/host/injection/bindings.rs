// SPDX-License-Identifier: GPL-2.0

//! Interrupts from eventfds.
//!
//! A VMM binds an eventfd, the source, to a vector of a vCPU, to another eventfd, the sink, or to both.
//! When the source is signalled, its [`TopHalf`] posts the vector, and is done if the vCPU will look.
//! If the vCPU will not, and there is no sink, it [kicks](KickTarget::kick) the vCPU. A sink is for a [bottom
//! half](crate::injection::softirq) to signal, as an eventfd's callback must not signal another eventfd: KVM's
//! irqfd routes it to where the VMM wants it.
//!
//! # Lifetimes
//!
//! | what         | is kept by                                                        |
//! |--------------|-------------------------------------------------------------------|
//! | [`TopHalf`]  | the waiter in the eventfd's wait queue                            |
//! | the waiter   | [`Bindings`], until it is unbound or the VM's file is closed      |
//! | [`Delivery`]   | its top half, and while it is in a queue, the queue               |
//! | [`KickTarget`]   | the VM, and the sources that are bound to it                      |
//!
//! To unbind is to take the waiter out of the wait queue, after which no top half runs, and then to
//! wait until no bottom half delivers for the source. If the eventfd's last descriptor is closed, its
//! top half does nothing any more, and what is left of it goes when the VMM binds or unbinds something
//! or ends: nobody can refer to the eventfd any more, but for the kernel, which may signal it.
//!
//! # Concurrency
//!
//! | context                                                    | what runs there               |
//! |------------------------------------------------------------|-------------------------------|
//! | any, interrupts off, the wait queue's lock held            | top halves                    |
//! | softirq                                                    | bottom halves                 |
//! | process                                                    | bind, unbind, the VM's end    |
//!
//! The locks are taken in this order: [`Bindings::bindings`]; the lock of an eventfd's wait queue; the
//! lock of a bottom half's queue, or of a vCPU's [`Kicker`](kvm_glue::Kicker), and in that what
//! it takes to wake a task. A bottom half holds none when it signals a sink, so that no wait queue's
//! lock is ever taken under another's, and the eventfds of a chain cannot lock each other out. A chain
//! has two links at most: what is a sink cannot be bound as a source, and the other way round.
//!
//! A source's descriptor is found under RCU, as by everybody else. When the guest takes its descriptors
//! away, top halves of before have ended before what is pending there is delivered.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::File,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        Mutex, //
    }, //
};
use kernel_ext::fs::eventfd::{
    EventFd,
    EventFdCallback,
    Waiter, //
};
use pvirq_protocol::{
    ioctl,
    Posted,
    Vector, //
};

use super::{
    delivery::Delivery,
    sink::Sink,
    softirq::Kind, //
};
use crate::vm::{
    kick_target::KickTarget,
    Vm, //
};

/// What runs when a source is signalled.
pub(crate) struct TopHalf {
    vm: Arc<Vm>,
    /// What is posted, and to whom.
    post: Option<(Arc<KickTarget>, Vector)>,
    source: Arc<Delivery>,
    kind: Kind,
    /// Whether the eventfd's last descriptor has been closed.
    closed: Atomic<bool>,
}

impl TopHalf {
    /// Posts to the guest's descriptor, if it has one.
    fn post_to_guest(&self, target: &KickTarget, vector: Vector) -> Option<Posted> {
        let guard = rcu::read_lock();
        let descriptors = self.vm.descriptors.get(&guard)?;

        Some(descriptors.get(target.id)?.post_once(vector))
    }

    /// Posts, and if that does not do and there is no sink, kicks. Returns what has become of it.
    fn post(&self) -> Option<Posted> {
        let (target, vector) = self.post.as_ref()?;
        let posted = self.post_to_guest(target, *vector);

        match posted {
            Some(Posted::Kick) | None if !self.source.sink().needs_bottom_half() => {
                Some(target.kick(*vector))
            }
            _ => posted,
        }
    }
}

impl EventFdCallback for TopHalf {
    fn signalled(&self) {
        if self.closed.load(Relaxed) {
            return;
        }
        let bottom_halves = &self.vm.host.bottom_halves;
        let posted = self.post();

        self.source.counters.count_top_half(posted);
        bottom_halves.count_top_half(self.kind, posted);
        if matches!(posted, Some(Posted::Elided | Posted::Coalesced)) {
            return;
        }
        if !self.source.sink().needs_bottom_half() {
            self.source.counters.delivered.add(1);
        } else if let Some(source) = Delivery::signal(&self.source) {
            bottom_halves.push(self.kind, source);
        }
    }

    fn closed(&self) {
        self.closed.store(true, Relaxed);
    }
}

type Binding = Waiter<TopHalf>;

/// Ends a binding that nobody finds any more.
fn end(binding: Pin<KBox<Binding>>) {
    let source = binding.target().source.clone();

    drop(binding);
    source.stop();
}

/// What is bound, of all VMs: a chain can lead from one to another.
#[pin_data]
pub(crate) struct Bindings {
    #[pin]
    bindings: Mutex<KVec<Pin<KBox<Binding>>>>,
}

/// What to bind.
pub(crate) struct Bind {
    /// A file that is an eventfd.
    pub(crate) file: ARef<File>,
    pub(crate) post: Option<(Arc<KickTarget>, Vector)>,
    pub(crate) sink: Sink,
    pub(crate) kind: Kind,
}

impl Bindings {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            bindings <- new_mutex!(KVec::new()),
        })
    }

    /// Binds an eventfd in a VM. Process context. The errors are those of [`ioctl::BIND`].
    pub(crate) fn bind(&self, vm: &Arc<Vm>, bind: Bind) -> Result {
        let Bind {
            file,
            post,
            sink,
            kind,
        } = bind;
        let eventfd = EventFd::from_file(&file)?;
        if sink.is_eventfd(&eventfd) {
            return Err(ELOOP);
        }
        let mut bindings = self.bindings.lock();
        Self::reap(&mut bindings, vm);
        bindings.reserve(1, GFP_KERNEL_ACCOUNT)?;
        for other in bindings.iter() {
            if other.waits_for(&eventfd) {
                let same = Arc::ptr_eq(&other.target().vm, vm);
                return Err(if same { EEXIST } else { EBUSY });
            }
            let chained = matches!(&sink, Sink::EventFd(sink) if other.waits_for(sink));
            if chained || other.target().source.sink().is_eventfd(&eventfd) {
                return Err(ELOOP);
            }
        }
        let source = Arc::pin_init(Delivery::new(sink), GFP_KERNEL_ACCOUNT)?;
        let top_half = TopHalf {
            vm: vm.clone(),
            post,
            source,
            kind,
            closed: Atomic::new(false),
        };
        let (binding, signalled) = Waiter::register(&file, top_half)?;

        if signalled {
            let _interrupts = kernel::interrupt::local_interrupt_disable();
            binding.target().signalled();
        }
        // There is room.
        bindings.push_within_capacity(binding).map_err(|_| ENOMEM)
    }

    /// Unbinds an eventfd of a VM. Process context.
    pub(crate) fn unbind(&self, vm: &Arc<Vm>, eventfd: &EventFd) -> Result {
        let mut bindings = self.bindings.lock();

        Self::reap(&mut bindings, vm);
        let index = bindings
            .iter()
            .position(|binding| Self::is(binding, vm, eventfd))
            .ok_or(ENOENT)?;
        let binding = bindings.remove(index).map_err(|_| ENOENT)?;
        drop(bindings);
        end(binding);
        Ok(())
    }

    /// Unbinds all of a VM. Process context.
    pub(crate) fn unbind_all(&self, vm: &Arc<Vm>) {
        Self::end_all(&mut self.bindings.lock(), |binding| {
            Arc::ptr_eq(&binding.target().vm, vm)
        });
    }

    /// Returns what an eventfd of a VM has counted.
    pub(crate) fn counted(&self, vm: &Arc<Vm>, eventfd: &EventFd) -> Result<ioctl::Source> {
        let bindings = self.bindings.lock();

        let binding = bindings
            .iter()
            .find(|binding| Self::is(binding, vm, eventfd));
        Ok(binding.ok_or(ENOENT)?.target().source.counters.get())
    }

    fn is(binding: &Binding, vm: &Arc<Vm>, eventfd: &EventFd) -> bool {
        Arc::ptr_eq(&binding.target().vm, vm) && binding.waits_for(eventfd)
    }

    /// Ends what nobody can refer to any more, of one VM: that is charged for it.
    fn reap(bindings: &mut KVec<Pin<KBox<Binding>>>, vm: &Arc<Vm>) {
        Self::end_all(bindings, |binding| {
            Arc::ptr_eq(&binding.target().vm, vm) && binding.target().closed.load(Relaxed)
        });
    }

    fn end_all(bindings: &mut KVec<Pin<KBox<Binding>>>, which: impl Fn(&Binding) -> bool) {
        let mut index = 0;

        while let Some(binding) = bindings.get(index) {
            if !which(binding) {
                index += 1;
            } else if let Ok(binding) = bindings.remove(index) {
                end(binding);
            }
        }
    }
}
