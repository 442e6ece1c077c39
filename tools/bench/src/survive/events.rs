// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The eventfds of a VM that is saved and restored, which a thread signals all the time.
//!
//! While the VMM moves them from one VM to the other, they are bound to nothing, and keep signals.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::Duration,
};

use kvm_ioctls::VmFd;
use mini_guest::{Random, Shared, LEDGER_EVENTS, LEDGER_VCPUS, LEDGER_VECTORS};
use pvirq::{
    device::PVIRQ,
    extension::{Extension, Route},
};
use pvirq_protocol::Vector;
use vm_memory::GuestMemoryMmap;
use vmm::{
    boot,
    error::Error,
    machine::Machine,
    msi::{self, FIRST_GSI},
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// The longest that the thread waits between two signals.
const PAUSE: Duration = Duration::from_micros(300);

/// What an eventfd is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Nothing,
    /// To a vCPU's vector, once the guest has registered its descriptors.
    Soon,
    Irqfd,
    Pvirq,
}

/// An eventfd for a vCPU.
struct Event {
    target: usize,
    source: usize,
    file: EventFd,
    bound: Mutex<Bound>,
    /// How often it has been signalled.
    sent: AtomicU64,
    /// Held while it is signalled.
    signals: Mutex<()>,
}

impl Event {
    fn vector(&self) -> u8 {
        LEDGER_VECTORS + self.source as u8
    }

    /// The first one of each vCPU is always KVM's irqfd.
    fn is_irqfd(&self) -> bool {
        self.source == LEDGER_VCPUS
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All eventfds of a VM, two for each vCPU.
pub(super) struct Events {
    events: Vec<Event>,
    memory: Mutex<GuestMemoryMmap>,
}

impl Events {
    /// Makes them for so many vCPUs, which have this memory.
    pub fn new(vcpus: usize, memory: GuestMemoryMmap) -> Result<Self, Error> {
        let mut events = Vec::new();
        for target in 0..vcpus {
            for event in 0..LEDGER_EVENTS {
                events.push(Event {
                    target,
                    source: LEDGER_VCPUS + event,
                    file: EventFd::new(EFD_NONBLOCK)
                        .map_err(Error::os("cannot make an eventfd"))?,
                    bound: Mutex::new(Bound::Nothing),
                    sent: AtomicU64::new(0),
                    signals: Mutex::new(()),
                });
            }
        }
        Ok(Events {
            events,
            memory: Mutex::new(memory),
        })
    }

    /// The guest has other memory now, with the same contents.
    pub fn set_memory(&self, memory: GuestMemoryMmap) {
        *lock(&self.memory) = memory;
    }

    /// Binds all eventfds to a VM: to KVM's irqfd, or to a vCPU's vector as soon as the guest can take that, which it never
    /// can unless it `registers` descriptors.
    pub fn attach(
        &self,
        machine: &Machine,
        device: &std::path::Path,
        registers: bool,
    ) -> Result<(), Error> {
        let routes: Vec<_> = self
            .events
            .iter()
            .zip(FIRST_GSI..)
            .map(|(event, gsi)| msi::route(gsi, event.target as u32, event.vector()))
            .collect();
        msi::set_routes(machine.vm(), &routes)?;
        let to_vectors = registers && device.to_str() == Some(PVIRQ);
        for (event, gsi) in self.events.iter().zip(FIRST_GSI..) {
            let mut bound = lock(&event.bound);
            *bound = Bound::Soon;
            if event.is_irqfd() || !to_vectors {
                machine
                    .vm()
                    .register_irqfd(&event.file, gsi)
                    .map_err(Error::kvm("KVM_IRQFD"))?;
                *bound = Bound::Irqfd;
            }
        }
        Ok(())
    }

    /// Binds the eventfds that wait for the guest's registration, if there is one now.
    pub fn bind(&self, vm: &VmFd) -> Result<(), Error> {
        for event in &self.events {
            let mut bound = lock(&event.bound);
            if *bound != Bound::Soon {
                continue;
            }
            let vector = Vector::new(event.vector())
                .map_err(|_| Error::Memory(format!("the vector {} is reserved", event.vector())))?;
            let route = Route::to_vcpu(event.target as u32, vector);
            match Extension::new(vm)?.bind(&event.file, &route) {
                Ok(()) => *bound = Bound::Pvirq,
                Err(pvirq::error::Error::Injection { errno, .. }) if errno == libc::ENXIO => {
                    return Ok(())
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes bindings back: those to KVM's irqfd or to vectors, as it is wanted. What was signalled before has got to the
    /// VM when this returns, and what is signalled later stays in the eventfds.
    pub fn detach(&self, machine: &Machine, irqfds: bool, vectors: bool) -> Result<(), Error> {
        for (event, gsi) in self.events.iter().zip(FIRST_GSI..) {
            let mut bound = lock(&event.bound);
            match *bound {
                Bound::Irqfd if irqfds => machine
                    .vm()
                    .unregister_irqfd(&event.file, gsi)
                    .map_err(Error::kvm("KVM_IRQFD"))?,
                Bound::Pvirq if vectors => Extension::new(machine.vm())?.unbind(&event.file)?,
                Bound::Soon if vectors => {}
                _ => continue,
            }
            *bound = Bound::Nothing;
        }
        Ok(())
    }

    /// Signals an eventfd, unless its last interrupt has not been handled. Says whether it did.
    fn signal(&self, event: &Event) -> bool {
        let _alone = lock(&event.signals);
        let memory = lock(&self.memory).clone();
        let Ok(shared) = boot::shared(&memory) else {
            return false;
        };
        if self.handled(shared, event) < event.sent.load(SeqCst) {
            return false;
        }
        event.sent.fetch_add(1, SeqCst);
        // If the count is at its maximum, the eventfd is signalled already.
        let _ = event.file.write(1);
        true
    }

    fn handled(&self, shared: &Shared, event: &Event) -> u64 {
        let ledger = &shared.survival.ledgers[event.target];
        ledger.handled[event.source].value.load(SeqCst)
    }

    /// Signals all that can be, and says how many that were.
    pub fn signal_all(&self) -> u64 {
        let signalled = self.events.iter().filter(|event| self.signal(event));
        signalled.count() as u64
    }

    /// Calls `function` while a thread signals at random.
    pub fn while_signalling<T>(&self, seed: u64, function: impl FnOnce() -> T) -> Result<T, Error> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let signaller = thread::Builder::new()
                .name("events".into())
                .spawn_scoped(scope, || {
                    let mut random = Random::new(!seed);
                    while !over.load(SeqCst) {
                        let which = random.below(self.events.len() as u64) as usize;
                        self.signal(&self.events[which]);
                        let pause = random.below(PAUSE.as_nanos() as u64);
                        thread::sleep(Duration::from_nanos(pause));
                    }
                })
                .map_err(Error::os("cannot start a thread"))?;
            let result = function();
            over.store(true, SeqCst);
            match signaller.join() {
                Ok(()) => Ok(result),
                Err(_) => Err(Error::Memory("the thread that signals is gone".into())),
            }
        })
    }

    /// How often an eventfd of a vCPU has been signalled.
    pub fn sent(&self, target: usize, source: usize) -> u64 {
        self.events
            .iter()
            .filter(|event| (event.target, event.source) == (target, source))
            .map(|event| event.sent.load(SeqCst))
            .sum()
    }

    /// How often all of them have been signalled.
    pub fn signals(&self) -> u64 {
        let events = self.events.iter();
        events.map(|event| event.sent.load(SeqCst)).sum()
    }

    /// Leaves the numbers for the guest, when there are no more signals.
    pub fn leave_numbers(&self, shared: &Shared) {
        for event in &self.events {
            let place = &shared.survival.ledgers[event.target].sent[event.source];
            place.value.store(event.sent.load(SeqCst), SeqCst);
        }
    }
}
