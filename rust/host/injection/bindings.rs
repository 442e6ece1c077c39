// SPDX-License-Identifier: GPL-2.0

//! Bindings: interrupts from eventfds.
//!
//! A VMM binds an eventfd, the source, to a vector of a vCPU, to another eventfd, the sink, or to both. When the source
//! is signalled, its [`TopHalf`] posts the vector, and is done if the vCPU will poll. If the vCPU will not poll and
//! there is no sink, the top half [kicks](KickTarget::kick) it. If there is a sink, a [bottom
//! half](crate::injection::softirq) signals it, as an eventfd's callback must not signal another eventfd. If the sink
//! is KVM's irqfd, KVM routes the interrupt.
//!
//! # Lifetimes
//!
//! | object         | is kept by                                                          |
//! |----------------|---------------------------------------------------------------------|
//! | [`TopHalf`]    | the waiter in the eventfd's wait queue                              |
//! | the waiter     | [`Bindings`], until it is unbound or the VM's file is closed        |
//! | [`Delivery`]   | its top half, and the queue that it is in                           |
//! | [`KickTarget`] | the VM, and the top halves that are bound to it                     |
//!
//! Unbinding removes the waiter from the wait queue, after which no top half runs, and then waits until no bottom half
//! delivers for the source. When the eventfd's last descriptor is closed, its top half does nothing any more: only the
//! kernel can still signal the eventfd. The binding is freed when the VMM next binds or unbinds an eventfd, or closes
//! the VM's file.
//!
//! # Concurrency
//!
//! | context                                                    | runs                               |
//! |------------------------------------------------------------|------------------------------------|
//! | any but NMIs, interrupts off, the wait queue's lock held   | top halves                         |
//! | softirq                                                    | bottom halves                      |
//! | process                                                    | bind, unbind, release of the VM    |
//!
//! The locks are taken in this order: [`Bindings::bindings`]; the lock of an eventfd's wait queue; the lock of a bottom
//! half's queue, or of a vCPU's [`Kicker`](kvm_glue::Kicker), and under that the locks by which a task is woken. A
//! bottom half holds none when it signals a sink, so no wait queue's lock is taken under another's, and the eventfds of
//! a chain cannot deadlock. A chain has at most two links: a sink cannot be bound as a source, nor a source be a sink.
//!
//! Top halves find the descriptor under RCU. The end of a registration waits for RCU, and so for all top halves that
//! use the descriptors, before it injects the vectors that are pending there.

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

/// The callback of a source: it runs when the source is signalled.
pub(crate) struct TopHalf {
    vm: Arc<Vm>,
    /// The vCPU and the vector that a signal is posted to.
    post: Option<(Arc<KickTarget>, Vector)>,
    delivery: Arc<Delivery>,
    kind: Kind,
    /// Whether the eventfd's last descriptor has been closed.
    closed: Atomic<bool>,
}

impl TopHalf {
    /// Posts to the vCPU's descriptor, if the guest has registered one.
    fn post_to_guest(&self, target: &KickTarget, vector: Vector) -> Option<Posted> {
        let guard = rcu::read_lock();
        let descriptors = self.vm.descriptors.get(&guard)?;

        Some(descriptors.get(target.id)?.post_once(vector))
    }

    /// Posts the vector. If the target will not poll and there is no sink, kicks it. Returns the outcome.
    fn post(&self) -> Option<Posted> {
        let (target, vector) = self.post.as_ref()?;
        let posted = self.post_to_guest(target, *vector);

        match posted {
            Some(Posted::Kick) | None if !self.delivery.sink().needs_bottom_half() => {
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

        self.delivery.counters.count_top_half(posted);
        bottom_halves.count_top_half(self.kind, posted);
        if matches!(posted, Some(Posted::Elided | Posted::Coalesced)) {
            return;
        }
        if !self.delivery.sink().needs_bottom_half() {
            self.delivery.counters.delivered.add(1);
        } else if let Some(delivery) = Delivery::signal(&self.delivery) {
            bottom_halves.push(self.kind, delivery);
        }
    }

    fn closed(&self) {
        self.closed.store(true, Relaxed);
    }
}

type Binding = Waiter<TopHalf>;

/// Ends a binding that has been removed from [`Bindings`].
fn end(binding: Pin<KBox<Binding>>) {
    let delivery = binding.target().delivery.clone();

    // This leaves the wait queue, so there are no more signals.
    drop(binding);
    delivery.stop();
}

/// The bindings of all VMs: a chain of eventfds can lead from one VM to another.
#[pin_data]
pub(crate) struct Bindings {
    #[pin]
    bindings: Mutex<KVec<Pin<KBox<Binding>>>>,
}

/// A binding to be made.
pub(crate) struct Bind {
    /// The file of the source.
    pub(crate) file: ARef<File>,
    pub(crate) post: Option<(Arc<KickTarget>, Vector)>,
    pub(crate) sink: Sink,
    pub(crate) kind: Kind,
}

impl Bindings {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            bindings <- new_mutex!(KVec::new(), "pvirq_bindings"),
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
            if chained || other.target().delivery.sink().is_eventfd(&eventfd) {
                return Err(ELOOP);
            }
        }
        let delivery = Arc::pin_init(Delivery::new(sink), GFP_KERNEL_ACCOUNT)?;
        let top_half = TopHalf {
            vm: vm.clone(),
            post,
            delivery,
            kind,
            closed: Atomic::new(false),
        };
        let (binding, signalled) = Waiter::register(&file, top_half)?;

        if signalled {
            let _interrupts = kernel::interrupt::local_interrupt_disable();
            binding.target().signalled();
        }
        // `reserve` has made room.
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

    /// Unbinds all eventfds of a VM. Process context.
    pub(crate) fn unbind_all(&self, vm: &Arc<Vm>) {
        Self::end_all(&mut self.bindings.lock(), |binding| {
            Arc::ptr_eq(&binding.target().vm, vm)
        });
    }

    /// Returns the counters of an eventfd that is bound in a VM.
    pub(crate) fn counted(&self, vm: &Arc<Vm>, eventfd: &EventFd) -> Result<ioctl::Source> {
        let bindings = self.bindings.lock();

        let binding = bindings
            .iter()
            .find(|binding| Self::is(binding, vm, eventfd));
        Ok(binding.ok_or(ENOENT)?.target().delivery.counters.get())
    }

    fn is(binding: &Binding, vm: &Arc<Vm>, eventfd: &EventFd) -> bool {
        Arc::ptr_eq(&binding.target().vm, vm) && binding.waits_for(eventfd)
    }

    /// Ends the bindings of closed eventfds, of this VM only, whose memory cgroup is charged for them.
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
