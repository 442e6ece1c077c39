// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A machine whose vCPUs are interrupted by eventfds.

use std::path::Path;

use pvirq::{
    extension::{Extension, Route},
    mapped::MappedDescriptors,
};
use pvirq_protocol::{ioctl::Poll, Vector};
use vmm::{
    error::Error,
    machine::Machine,
    msi::{self, FIRST_GSI},
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::case::{InjectCase, Injection};
use crate::session::{Session, JOB_LIMIT};

/// A machine, and the eventfds that reach its vCPUs but the first: for each of them, as many as a burst has.
pub struct Ready {
    pub machine: Machine,
    pub injection: Injection,
    pub sources: Vec<Vec<EventFd>>,
    /// For posts by the VMM itself.
    pub descriptors: Option<MappedDescriptors>,
    /// Kept open for KVM's irqfd.
    _sinks: Vec<EventFd>,
}

impl Ready {
    /// Makes a machine for a case, with its eventfds.
    pub fn boot(
        session: &Session,
        cpus: &[usize],
        case: &InjectCase,
        injection: Injection,
    ) -> Result<Self, Error> {
        let mut machine = session.boot(Path::new(injection.device()), &session.config(cpus))?;
        if injection != Injection::Irqfd {
            machine.set_poll(&Poll::fixed(Poll::MAX_NS))?;
            machine.register_or_fail(JOB_LIMIT)?;
        }
        route(&machine, case)?;
        let descriptors = match injection {
            Injection::Direct => Some(Extension::new(machine.vm())?.map_descriptors()?),
            _ => None,
        };

        let mut ready = Ready {
            machine,
            injection,
            sources: Vec::new(),
            descriptors,
            _sinks: Vec::new(),
        };
        for vcpu in 1..case.vcpus() as u32 {
            let mut sources = Vec::new();
            for index in 0..case.burst {
                let gsi = FIRST_GSI + (vcpu - 1) * case.burst + index;
                let vector = vector(case.vector(index))?;
                sources.push(ready.connect(vcpu, vector, gsi)?);
            }
            ready.sources.push(sources);
        }
        Ok(ready)
    }

    /// Makes an eventfd that interrupts a vCPU.
    fn connect(&mut self, vcpu: u32, vector: Vector, gsi: u32) -> Result<EventFd, Error> {
        let source = eventfd()?;
        let irqfd = |eventfd: &EventFd| {
            let vm = self.machine.vm();
            vm.register_irqfd(eventfd, gsi)
                .map_err(Error::kvm("KVM_IRQFD"))
        };
        let bind = |route: Route<'_>| -> Result<(), Error> {
            Ok(Extension::new(self.machine.vm())?.bind(&source, &route)?)
        };
        let post = Route::to_vcpu(vcpu, vector);

        match self.injection {
            Injection::Irqfd => irqfd(&source)?,
            Injection::Posted | Injection::Direct => bind(post)?,
            Injection::PostedOrSink(kind) => {
                let sink = eventfd()?;
                irqfd(&sink)?;
                bind(post.or_sink(&sink).by(kind))?;
                self._sinks.push(sink);
            }
        }
        Ok(source)
    }

    /// How often the eventfds' interrupts have been delivered for, but by irqfd.
    pub fn delivered(&self) -> Result<u64, Error> {
        if self.injection == Injection::Irqfd {
            return Ok(0);
        }
        let pvirq = Extension::new(self.machine.vm())?;
        let sources = self.sources.iter().flatten();
        sources
            .map(|source| Ok(pvirq.source(source)?.delivered))
            .sum()
    }
}

pub fn vector(number: u8) -> Result<Vector, Error> {
    Vector::new(number).map_err(|error| Error::Image(format!("its vector: {error}")))
}

fn eventfd() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::os("cannot make an eventfd"))
}

/// Routes a GSI to the vector of a vCPU for each eventfd, vCPU by vCPU.
fn route(machine: &Machine, case: &InjectCase) -> Result<(), Error> {
    let count = case.burst;
    let routes: Vec<_> = (0..count * (machine.vcpus() as u32 - 1))
        .map(|index| {
            let vector = case.vector(index % count);
            msi::route(FIRST_GSI + index, 1 + index / count, vector)
        })
        .collect();
    msi::set_routes(machine.vm(), &routes)
}
