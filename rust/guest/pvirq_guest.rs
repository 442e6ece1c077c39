// SPDX-License-Identifier: GPL-2.0

//! Software posted interrupts for KVM: the guest's side, for Linux.
//!
//! The module registers a descriptor for each vCPU with its pvirq host
//! (`Documentation/guest-interface.rst`) and takes over the interrupts that CPUs send each other: it posts each one, and
//! leaves kicks to the function that sent it before, such as KVM's hypercall for multicasts. The vectors are the kernel's
//! own, so handlers do not know how an interrupt came. See `Documentation/linux-guest.rst`.
//!
//! # Lifetimes
//!
//! What all CPUs use lives in [`Guest`], which is made first and freed last: the takeover of the interrupts, the hotplug
//! callbacks and debugfs hold references, and each of them waits at its end until no CPU uses it any more. From the
//! registration on the host uses the memory of the descriptors, too: [`Registration`](registration::Registration)
//! unregisters them before it frees them.
//!
//! The fields of [`Module`] are dropped in their order: first no CPU posts any more, then no CPU can be posted to, then
//! the host forgets the descriptors.
//!
//! # Concurrency
//!
//! The registration has a lock ([`registration`]), which no sender takes. Senders run with preemption off, in any context
//! but NMIs ([`kernel_ext_cpu::ipi`]), and with the scheduler's locks held, so they must not wait or wake tasks. They use
//! only:
//!
//! - descriptors, by the protocol, whose proof is for any number of senders and any states;
//! - the index of each CPU's descriptor ([`cpus`]), written by the hotplug callbacks on that CPU. Senders may use an old
//!   one: a post to a CPU that is going offline is a kick, or is found when the vCPU runs next, as a native interrupt would
//!   be pending there;
//! - counters of the CPU that they run on, and its timer by an interrupt to itself ([`registration`]).
//!
//! When the system stops, the host forgets the descriptors ([`Stopping`]) and nothing else changes: from then on their
//! states say Running, and every post is a kick. In a panic the module does nothing. CPUs that have been stopped are sent
//! only NMIs, and a crash kernel leaves the old kernel's memory alone, and so the descriptors, until it registers its own.
//!
//! A CPU can be posted to from its online callback, which announces it to the host, until its offline callback. Before
//! and after that its interrupts are native.

use kernel::{
    debugfs::Scope,
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::{
    cpu_timer::CpuTimers,
    hotplug,
    ipi::Takeover,
    system, //
};

mod arch;
mod checks;
mod counters;
mod cpus;
mod debugfs;
mod descriptors;
mod guest;
mod host;
mod idle;
mod idle_state;
mod presence;
mod registration;
mod sender;
mod stopping;

use checks::{
    Promised,
    Regular, //
};
use guest::Guest;
use host::Host;
use presence::Presence;
use sender::Sender;
use stopping::Stopping;

module! {
    type: Module,
    name: "pvirq_guest",
    authors: ["The pvirq developers"],
    description: "Software posted interrupts for KVM, in Linux guests",
    license: "GPL",
    params: {
        port: u16 {
            default: pvirq_protocol::registers::BASE,
            description: "First I/O port of the host's interface",
        },
        idle: bool {
            default: true,
            description: "Whether idle CPUs poll for posts",
        },
        version: u16 {
            default: pvirq_protocol::registers::VERSION,
            description: "Version of the interface to ask for, to test a host's refusal",
        },
        features: u32 {
            default: u32::MAX,
            description: "The host's features to use, by their bits, to test a host with fewer",
        },
    },
}

#[pin_data]
struct Module {
    _takeover: Takeover<Sender>,
    _stopping: system::Registration<Stopping>,
    _presence: hotplug::Registration<Presence>,
    #[pin]
    _debugfs: Scope<Arc<Guest>>,
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let port = module_parameters::port.value();
            let host = Host::find(
                port,
                module_parameters::version.value(),
                module_parameters::features.value(),
            )?;
            let guest = Arc::new(Guest::new(host)?, GFP_KERNEL)?;
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
            guest.registration.allow_checks();

            let count = guest.registration.array().count;
            let cpus = guest.cpus.ids().count();
            let polling = match guest.host().has_idle() {
                true => "polls for idle CPUs",
                false => "does not poll for idle CPUs",
            };
            pr_info!("host at port {port:#x}, which {polling}\n");
            pr_info!("{count} descriptors, {cpus} CPUs can be posted to\n");
            Ok(try_pin_init!(Self {
                _debugfs <- debugfs::show(guest.clone()),
                _presence: presence,
                _stopping: system::Registration::register(Stopping(guest.clone()))?,
                _takeover: Takeover::begin(Sender { guest, promises })?,
            }))
        })
    }
}
