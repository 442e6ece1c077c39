// SPDX-License-Identifier: GPL-2.0

//! Software posted interrupts for KVM: the guest's side, for Linux.
//!
//! The module gives its pvirq host a descriptor for each vCPU (`Documentation/guest-interface.rst`)
//! and takes over the interrupts that CPUs send each other: each is posted, and what has to be
//! kicked is left to the function that sent it before, such as KVM's hypercall for multicasts. The
//! vectors are the kernel's own, so whoever takes an interrupt does not know how it came. See
//! `Documentation/linux-guest.rst`.
//!
//! # Lifetimes
//!
//! What CPUs use lives in [`Guest`]. It is made first and goes last: the takeover of the interrupts,
//! the hotplug callbacks and debugfs hold references, and each of them waits when it ends until no
//! CPU uses it any more. The memory of the descriptors belongs to the host, too, from the
//! registration on: [`Guest`] un-registers before it frees them.
//!
//! The order of the fields of [`Module`] is the order of the end: first no CPU posts any more, then
//! no CPU can be posted to, then the host forgets the descriptors.
//!
//! # Concurrency
//!
//! There is no lock. Senders run with preemption off in any context but NMIs ([`kernel_ext_cpu::ipi`]),
//! with the scheduler's locks held, so nothing there may wait or wake anybody. All that they touch:
//!
//! - descriptors, by the protocol, whose proof is for any number of senders and any states;
//! - each CPU's APIC ID ([`cpus`]), written by the hotplug callbacks on that CPU. Senders may use an
//!   old one: a post to a CPU that is going away is found by whoever runs it next, or is kicked, as a
//!   native interrupt would be pending in its local APIC;
//! - counters of the CPU that they run on.
//!
//! When the system stops, the host forgets the descriptors ([`Ending`]) and nothing else changes: their
//! states say Running from then on, and every post is kicked. In a panic, nothing is done. CPUs that
//! have been stopped are sent nothing but NMIs, and a kernel that takes the place of a crashed one
//! leaves its memory alone, and so the descriptors, until it registers its own.
//!
//! A CPU can be posted to from when its online callback has made it known to its host until its
//! offline callback. Before and after its interrupts are native ones.

use kernel::{
    cpu::CpuId,
    debugfs,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};
use kernel_ext_cpu::{
    cpuidle,
    hotplug::{
        self,
        CpuHotplug, //
    },
    ipi::Takeover,
    kvm,
    memory,
    system::{
        self,
        SystemCore, //
    },
    topology::apic_id, //
};

mod counters;
mod cpus;
mod descriptors;
mod host;
mod idle;
mod sender;

use cpus::Cpus;
use descriptors::Descriptors;
use host::Host;
use sender::Sender;

module! {
    type: Module,
    name: "pvirq_guest",
    authors: ["The pvirq developers"],
    description: "Software posted interrupts for KVM, in Linux guests",
    license: "GPL",
    params: {
        port: u16 {
            default: pvirq_protocol::port::BASE,
            description: "First I/O port of the host's interface",
        },
        idle: bool {
            default: true,
            description: "Whether idle CPUs poll for posts",
        },
        version: u16 {
            default: pvirq_protocol::port::VERSION,
            description: "Version of the interface to ask for, to see a host refuse it",
        },
    },
}

/// What all CPUs use.
struct Guest {
    host: Host,
    descriptors: Descriptors,
    cpus: Cpus,
    /// Whether this kernel yields to preempted vCPUs for which a multicast waits.
    yields: bool,
    /// Whether a CPU that comes has the descriptors registered again: not before all of those that
    /// were online at the beginning are known, and not when the system stops.
    settled: Atomic<bool>,
}

impl Guest {
    /// Finds the host and registers the descriptors.
    fn new(port: u16, version: u16) -> Result<Self> {
        let host = Host::find(port, version)?;
        if memory::is_encrypted() {
            pr_err!("this guest's memory is encrypted, and the host could not read descriptors\n");
            return Err(ENODEV);
        }
        let descriptors = Descriptors::new(host.max_descriptors())?;
        let cpus = Cpus::new()?;

        host.register(descriptors.array())?;
        Ok(Self {
            host,
            descriptors,
            cpus,
            yields: kvm::has_sched_yield(),
            settled: Atomic::new(false),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.host.unregister() {
            // Whoever writes there does so for good.
            pr_err!("the host does not give the descriptors back: their memory is lost\n");
            core::mem::take(&mut self.descriptors).leak();
        }
    }
}

/// Lets CPUs be posted to, and poll, while they are online.
struct Presence {
    guest: Arc<Guest>,
    idler: Option<cpuidle::Registration<Guest>>,
}

impl CpuHotplug for Presence {
    const NAME: &'static CStr = c"pvirq_guest:online";

    fn online(&self, id: CpuId) -> Result {
        let guest = &*self.guest;

        if let Some(cpu) = guest.cpus.get(id) {
            guest.host.greet();
            // A vCPU that has been created just now, or that its VMM has reset, has made the host
            // forget all descriptors.
            if guest.settled.load(Relaxed) {
                guest.host.register(guest.descriptors.array())?;
            }
            if let Some(idler) = &self.idler {
                idler.add(id)?;
            }
            cpu.set_apic_id(apic_id(id));
        }
        Ok(())
    }

    fn offline(&self, id: CpuId) {
        if let Some(cpu) = self.guest.cpus.get(id) {
            cpu.set_apic_id(None);
        }
        if let Some(idler) = &self.idler {
            idler.remove(id);
        }
    }
}

/// Lets the host forget the descriptors when this kernel does, or their memory becomes another's.
///
/// CPUs go on as before meanwhile: whatever they post is kicked.
struct Ending(Arc<Guest>);

impl SystemCore for Ending {
    fn suspend(&self) {
        self.shutdown();
    }

    fn resume(&self) {
        let guest = &*self.0;

        guest.host.greet();
        guest.settled.store(true, Relaxed);
        if guest.host.register(guest.descriptors.array()).is_err() {
            pr_err!("from now on every interrupt is sent natively\n");
        }
    }

    fn shutdown(&self) {
        // CPUs that come again do not register them.
        self.0.settled.store(false, Relaxed);
        if !self.0.host.unregister() {
            pr_err!("the host does not give the descriptors back\n");
        }
    }
}

#[pin_data(PinnedDrop)]
struct Module {
    takeover: Takeover<Sender>,
    _ending: system::Registration<Ending>,
    _presence: hotplug::Registration<Presence>,
    #[pin]
    _debugfs: debugfs::Scope<Arc<Guest>>,
}

#[pinned_drop]
impl PinnedDrop for Module {
    fn drop(self: Pin<&mut Self>) {
        if !self.takeover.is_in_place() {
            pr_warn!("somebody has taken the interrupts over after us, and loses them now\n");
        }
    }
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let port = module_parameters::port.value();
            let guest = Arc::new(
                Guest::new(port, module_parameters::version.value())?,
                GFP_KERNEL,
            )?;
            let presence = hotplug::Registration::register(Presence {
                guest: guest.clone(),
                idler: match module_parameters::idle.value() {
                    true => idle::register(guest.clone())?,
                    false => None,
                },
            })?;
            guest.settled.store(true, Relaxed);

            let count = guest.descriptors.array().count;
            let cpus = guest.cpus.known().count();
            let polling = match guest.host.has_idle() {
                true => "polls for idle CPUs",
                false => "does not poll for idle CPUs",
            };
            pr_info!("host at port {port:#x}, which {polling}\n");
            pr_info!("{count} descriptors, {cpus} CPUs can be posted to\n");
            Ok(try_pin_init!(Self {
                _debugfs <- counters::debugfs(guest.clone()),
                _presence: presence,
                _ending: system::Registration::register(Ending(guest.clone()))?,
                takeover: Takeover::begin(Sender(guest))?,
            }))
        })
    }
}
