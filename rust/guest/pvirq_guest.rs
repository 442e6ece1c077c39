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
//! There is a lock for the registration ([`registration`]), which no sender takes. Senders run with preemption off in any context but NMIs ([`kernel_ext_cpu::ipi`]),
//! with the scheduler's locks held, so nothing there may wait or wake anybody. All that they touch:
//!
//! - descriptors, by the protocol, whose proof is for any number of senders and any states;
//! - each CPU's APIC ID ([`cpus`]), written by the hotplug callbacks on that CPU. Senders may use an
//!   old one: a post to a CPU that is going away is found by whoever runs it next, or is kicked, as a
//!   native interrupt would be pending in its local APIC;
//! - counters of the CPU that they run on, and its timer by an interrupt to itself ([`registration`]).
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
    sync::Arc, //
};
use kernel_ext_cpu::{
    cpu_timer::CpuTimers,
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
mod registration;
mod sender;

use cpus::Cpus;
use descriptors::Descriptors;
use host::Host;
use registration::{
    Promised,
    Registration,
    Regular, //
};
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
        features: u32 {
            default: u32::MAX,
            description: "Features of the host's to use if it has them, to see what is done without the others",
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
    registration: Registration,
}

impl Guest {
    /// Finds the host and registers the descriptors.
    fn new(port: u16, version: u16, features: u32) -> Result<Self> {
        let host = Host::find(port, version, features)?;
        if memory::is_encrypted() {
            pr_err!("this guest's memory is encrypted, and the host could not read descriptors\n");
            return Err(ENODEV);
        }
        let descriptors = Descriptors::new(host.max_descriptors())?;
        let guest = Self {
            descriptors,
            host,
            cpus: Cpus::new()?,
            yields: kvm::has_sched_yield(),
            registration: Registration::new()?,
        };

        guest.begin_registration()?;
        Ok(guest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.end_registration() {
            // Whoever writes there does so for good.
            pr_err!("the host does not give the descriptors back: their memory is lost\n");
            self.descriptors.keep();
        }
    }
}

/// Lets CPUs be posted to, poll, and check the registration, while they are online.
struct Presence {
    guest: Arc<Guest>,
    idler: Option<cpuidle::Registration<Guest>>,
    checks: CpuTimers<Regular>,
    promises: Arc<CpuTimers<Promised>>,
}

impl CpuHotplug for Presence {
    const NAME: &'static CStr = c"pvirq_guest:online";

    /// Never fails: a CPU that cannot be posted to, or cannot poll, does without.
    fn online(&self, id: CpuId) -> Result {
        let guest = &*self.guest;

        guest.host.greet();
        // A vCPU that has been created just now, or that its VMM has reset, may have made the host forget all descriptors.
        guest.check_now();
        if let Some(idler) = &self.idler {
            if let Err(err) = idler.add(id) {
                if guest.registration.may_log() {
                    pr_warn!(
                        "CPU {} does not poll for posts: error {}\n",
                        id.as_u32(),
                        err.to_errno()
                    );
                }
            }
        }
        self.checks.start();
        self.checks.arm();
        self.promises.start();
        guest.cpus.set_apic_id(id, apic_id(id));
        Ok(())
    }

    fn offline(&self, id: CpuId) {
        self.guest.cpus.set_apic_id(id, None);
        self.promises.stop();
        self.checks.stop();
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
        self.0.host.greet();
        self.0.resume_registration();
    }

    fn shutdown(&self) {
        if !self.0.end_registration() {
            pr_err!("the host does not give the descriptors back\n");
        }
    }
}

#[pin_data]
struct Module {
    _takeover: Takeover<Sender>,
    _ending: system::Registration<Ending>,
    _presence: hotplug::Registration<Presence>,
    #[pin]
    _debugfs: debugfs::Scope<Arc<Guest>>,
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let port = module_parameters::port.value();
            let guest = Arc::new(
                Guest::new(
                    port,
                    module_parameters::version.value(),
                    module_parameters::features.value(),
                )?,
                GFP_KERNEL,
            )?;
            let interval = registration::interval();
            let promises = Arc::new(
                CpuTimers::new(Arc::new(Promised(guest.clone()), GFP_KERNEL)?, interval)?,
                GFP_KERNEL,
            )?;
            let presence = hotplug::Registration::register(Presence {
                guest: guest.clone(),
                idler: match module_parameters::idle.value() {
                    true => idle::register(guest.clone())?,
                    false => None,
                },
                checks: CpuTimers::new(Arc::new(Regular(guest.clone()), GFP_KERNEL)?, interval)?,
                promises: promises.clone(),
            })?;
            guest.settle_registration();

            let count = guest.descriptors.array().count;
            let cpus = guest.cpus.ids().count();
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
                _takeover: Takeover::begin(Sender { guest, promises })?,
            }))
        })
    }
}
