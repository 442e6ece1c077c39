// SPDX-License-Identifier: GPL-2.0

//! The module's directory in debugfs.

use kernel::{
    debugfs::Scope,
    fmt,
    prelude::*,
    sync::Arc, //
};

use crate::{
    counters::{
        IdleEvent,
        Outcome,
        IPIS, //
    },
    guest::Guest, //
};

/// Makes the directory, which lives as long as the result: a file `sent` with a line for each CPU and
/// kind of interrupt, files `idle`, `yields` and `descriptors` with a line for each CPU, and a file `host`.
pub(crate) fn show(guest: Arc<Guest>) -> impl PinInit<Scope<Arc<Guest>>> {
    Scope::dir(guest, c"pvirq_guest", |guest, dir| {
        dir.read_callback_file(c"sent", guest, &|guest, f| show_sent(guest, f));
        dir.read_callback_file(c"idle", guest, &|guest, f| show_idle(guest, f));
        dir.read_callback_file(c"yields", guest, &|guest, f| show_yields(guest, f));
        dir.read_callback_file(c"descriptors", guest, &|guest, f| {
            show_descriptors(guest, f)
        });
        dir.read_callback_file(c"host", guest, &|guest, f| show_host(guest, f));
    })
}

fn show_sent(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cpu ipi")?;
    for (_, name) in Outcome::ALL {
        write!(f, " {name}")?;
    }
    writeln!(f)?;
    for (number, cpu) in guest.cpus.iter() {
        for (ipi, name) in IPIS {
            let Some(outcomes) = cpu.counters().outcomes(ipi) else {
                continue;
            };
            write!(f, "{number} {name}")?;
            for counter in outcomes {
                write!(f, " {}", counter.get())?;
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

fn show_idle(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cpu")?;
    for (_, name) in IdleEvent::ALL {
        write!(f, " {name}")?;
    }
    writeln!(f)?;
    for (number, cpu) in guest.cpus.iter() {
        write!(f, "{number}")?;
        for counter in &cpu.counters().idle {
            write!(f, " {}", counter.get())?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn show_yields(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "cpu yields")?;
    for (number, cpu) in guest.cpus.iter() {
        writeln!(f, "{number} {}", cpu.counters().yields.get())?;
    }
    Ok(())
}

fn show_host(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let counts = guest.registration.counts();
    let array = guest.registration.array();

    writeln!(f, "registered {}", u32::from(counts.registered))?;
    writeln!(f, "epoch {:#x}", counts.epoch)?;
    writeln!(f, "registrations {}", counts.registrations)?;
    writeln!(f, "losses {}", counts.losses)?;
    writeln!(f, "checks {}", counts.checks)?;
    writeln!(f, "resent {}", counts.resent)?;
    writeln!(f, "address {:#x}", array.address)?;
    writeln!(f, "descriptors {}", array.count)?;
    match counts.refusal {
        None => writeln!(f, "refusal none"),
        Some(refusal) => writeln!(f, "refusal {refusal}"),
    }
}

/// Shows the states and the number of pending vectors in the descriptors of CPUs that can be posted to.
fn show_descriptors(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "cpu index guest host pending")?;
    for (number, index) in guest.cpus.ids() {
        let Some(descriptor) = guest.descriptor(index) else {
            continue;
        };
        let (guest, host) = (descriptor.guest_state(), descriptor.host_state());
        let pending = descriptor.pending().len();

        writeln!(f, "{number} {index} {guest:?} {host:?} {pending}")?;
    }
    Ok(())
}
