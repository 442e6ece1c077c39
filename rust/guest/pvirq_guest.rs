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
//! registration on: [`Registration`](registration::Registration) un-registers
//! before it frees them.
//!
//! The order of the fields of [`Module`] is the order of the end: first no CPU posts any more, then
//! no CPU can be posted to, then the host forgets the descriptors.
//!
//! # Concurrency
//!
//! There is a lock for the registration ([`registration`]), which no sender takes. Senders run with preemption off in any
//! context but NMIs ([`kernel_ext_cpu::ipi`]), with the scheduler's locks held, so nothing there may wait or wake anybody. All that they touch:
//!
//! - descriptors, by the protocol, whose proof is for any number of senders and any states;
//! - each CPU's APIC ID ([`cpus`]), written by the hotplug callbacks on that CPU. Senders may use an
//!   old one: a post to a CPU that is going away is found by whoever runs it next, or is kicked, as a
//!   native interrupt would be pending in its local APIC;
//! - counters of the CPU that they run on, and its timer by an interrupt to itself ([`registration`]).
//!
//! When the system stops, the host forgets the descriptors ([`Stopping`]) and nothing else changes: their
//! states say Running from then on, and every post is kicked. In a panic, nothing is done. CPUs that
//! have been stopped are sent nothing but NMIs, and a kernel that takes the place of a crashed one
//! leaves its memory alone, and so the descriptors, until it registers its own.
//!
//! A CPU can be posted to from when its online callback has made it known to its host until its
//! offline callback. Before and after its interrupts are native ones.

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
            description: "Version of the interface to ask for, to see a host refuse it",
        },
        features: u32 {
            default: u32::MAX,
            description: "Features of the host's to use if it has them, to see what is done without the others",
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
            guest.registration.settle();

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
