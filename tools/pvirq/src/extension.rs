// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ioctls of pvirq on a VM file, beyond KVM's API.
//!
//! A device's eventfd is [bound](Extension::bind) to a vector of a vCPU. A signal posts the interrupt. If the vCPU will
//! poll, no exit is needed. Otherwise the host kicks the vCPU, or a bottom half signals the sink: another eventfd, which
//! may be one of KVM's irqfd. See `Documentation/injection.rst`.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use kvm_ioctls::VmFd;
use pvirq_protocol::{
    ioctl::{
        Bind, BottomHalf, BottomHalfKind, Map, Poll, Posted, Posting, Registration, Source, Unbind,
        BIND, END_REGISTRATION, GET_BOTTOM_HALF, GET_POLL, GET_POSTED, GET_REGISTRATION,
        GET_SOURCE, GET_VERSION, MAP_DESCRIPTORS, SET_POLL, SET_POSTED, SET_POSTING, UNBIND,
        VERSION,
    },
    Vector, Vectors,
};
use vmm_sys_util::eventfd::EventFd;

use crate::{error::Error, mapped::MappedDescriptors};

/// What an eventfd is bound to.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    vcpu: Option<(u32, Vector)>,
    sink: Option<&'a EventFd>,
    bottom_half: BottomHalfKind,
}

impl<'a> Route<'a> {
    /// A vector of a vCPU, which is kicked if it will not poll.
    ///
    /// ```
    /// use pvirq::extension::Route;
    /// use pvirq_protocol::Vector;
    ///
    /// let route = Route::to_vcpu(0, Vector::new(0x40).unwrap());
    /// ```
    pub fn to_vcpu(vcpu: u32, vector: Vector) -> Self {
        Route {
            vcpu: Some((vcpu, vector)),
            sink: None,
            bottom_half: BottomHalfKind::Default,
        }
    }

    /// Another eventfd: one that KVM's irqfd has, for example.
    ///
    /// ```
    /// use pvirq::extension::Route;
    /// use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
    ///
    /// let sink = EventFd::new(EFD_NONBLOCK).unwrap();
    /// let route = Route::to_sink(&sink);
    /// ```
    pub fn to_sink(sink: &'a EventFd) -> Self {
        Route {
            vcpu: None,
            sink: Some(sink),
            bottom_half: BottomHalfKind::Default,
        }
    }

    /// Signals `sink` instead of a kick if the vCPU will not poll.
    ///
    /// ```
    /// use pvirq::extension::Route;
    /// use pvirq_protocol::Vector;
    /// use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
    ///
    /// let sink = EventFd::new(EFD_NONBLOCK).unwrap();
    /// let route = Route::to_vcpu(0, Vector::new(0x40).unwrap()).or_sink(&sink);
    /// ```
    pub fn or_sink(self, sink: &'a EventFd) -> Self {
        Route {
            sink: Some(sink),
            ..self
        }
    }

    /// Chooses the kind of bottom half that signals the sink. Without a sink there is none.
    ///
    /// ```
    /// use pvirq::extension::Route;
    /// use pvirq_protocol::{ioctl::BottomHalfKind, Vector};
    ///
    /// let route = Route::to_vcpu(0, Vector::new(0x40).unwrap()).by(BottomHalfKind::Workqueue);
    /// ```
    pub fn by(self, bottom_half: BottomHalfKind) -> Self {
        Route {
            bottom_half,
            ..self
        }
    }

    fn bind(&self, source: RawFd) -> Bind {
        let mut flags = 0;
        let mut sink = 0;
        let (mut vcpu, mut vector) = (0, 0);
        if let Some((id, number)) = self.vcpu {
            flags |= Bind::POST;
            (vcpu, vector) = (id, number.get().into());
        }
        if let Some(eventfd) = self.sink {
            flags |= Bind::SINK;
            sink = eventfd.as_raw_fd();
        }
        Bind {
            size: size_of::<Bind>() as u32,
            flags,
            source,
            sink,
            vcpu,
            vector,
            bottom_half: self.bottom_half.number(),
            reserved: 0,
        }
    }
}

/// The calls of pvirq on a VM.
///
/// ```no_run
/// use kvm_ioctls::Kvm;
/// use pvirq::extension::{Extension, Route};
/// use pvirq_protocol::Vector;
/// use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
///
/// let kvm = Kvm::new_with_path(c"/dev/pvirq")?;
/// let vm = kvm.create_vm()?;
/// let pvirq = Extension::new(&vm)?;
/// // … vCPUs, memory; and once the guest has registered its descriptors:
/// let device = EventFd::new(EFD_NONBLOCK)?;
/// pvirq.bind(&device, &Route::to_vcpu(0, Vector::new(0x40)?))?;
/// device.write(1)?;
/// println!("elided: {}", pvirq.source(&device)?.elided);
/// pvirq.unbind(&device)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Extension<'a> {
    vm: &'a VmFd,
}

impl<'a> Extension<'a> {
    /// Checks that the VM is pvirq's, and that the host has the version of this library.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(vm: &kvm_ioctls::VmFd) -> Result<(), Error> {
    /// match Extension::new(vm) {
    ///     Ok(_) => println!("interrupts can be posted"),
    ///     Err(error) => println!("KVM's irqfd delivers: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(vm: &'a VmFd) -> Result<Self, Error> {
        // SAFETY: The ioctl takes no argument. On a file that does not know it, it fails.
        let version = unsafe { libc::ioctl(vm.as_raw_fd(), GET_VERSION.into()) };

        match u32::try_from(version) {
            Ok(VERSION) => Ok(Extension { vm }),
            Ok(other) => Err(Error::NoExtension(format!(
                "the host has version {other}, not {VERSION}"
            ))),
            Err(_) => Err(Error::NoExtension(io::Error::last_os_error().to_string())),
        }
    }

    /// Binds an eventfd. If it has been signalled before, that counts.
    ///
    /// The binding ends when it is [taken back](Extension::unbind), when the eventfd's last descriptor is closed, and with
    /// the VM.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::{Extension, Route}};
    /// # use vmm_sys_util::eventfd::EventFd;
    /// # fn example(pvirq: Extension<'_>, device: &EventFd, irqfd: &EventFd) -> Result<(), Error> {
    /// pvirq.bind(device, &Route::to_sink(irqfd))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(&self, source: &EventFd, route: &Route<'_>) -> Result<(), Error> {
        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_BIND", BIND, &mut route.bind(source.as_raw_fd())) }
    }

    /// Removes a binding. When this returns, nothing is delivered for it any more.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>, device: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
    /// pvirq.unbind(device)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unbind(&self, source: &EventFd) -> Result<(), Error> {
        let mut unbind = Unbind::new(source.as_raw_fd());

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_UNBIND", UNBIND, &mut unbind) }
    }

    /// Reads what an eventfd has counted since it was bound.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>, device: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
    /// let counted = pvirq.source(device)?;
    /// println!("{} of {} interrupts needed no exit", counted.elided, counted.top_halves);
    /// # Ok(())
    /// # }
    /// ```
    pub fn source(&self, source: &EventFd) -> Result<Source, Error> {
        let mut counters = Source::of(source.as_raw_fd());

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_GET_SOURCE", GET_SOURCE, &mut counters) }?;
        Ok(counters)
    }

    /// Reads what the bottom half of a CPU has counted.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # use pvirq_protocol::ioctl::BottomHalfKind;
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// let counted = pvirq.bottom_half(0, BottomHalfKind::Tasklet)?;
    /// println!("{} deliveries in {} batches", counted.delivered, counted.batches);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bottom_half(&self, cpu: u32, kind: BottomHalfKind) -> Result<BottomHalf, Error> {
        let mut counters = BottomHalf::of(cpu, kind);

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_GET_BOTTOM_HALF", GET_BOTTOM_HALF, &mut counters) }?;
        Ok(counters)
    }

    /// Maps the descriptors that the guest has registered, for posts without a system call. When the guest registers
    /// others, call this again.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// let descriptors = pvirq.map_descriptors()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_descriptors(&self) -> Result<MappedDescriptors, Error> {
        const CALL: &str = "PVIRQ_MAP_DESCRIPTORS";
        let mut map = Map::new();

        // SAFETY: The argument is of the size that the number says, and what is returned goes together.
        unsafe {
            let fd = self.call_for_value(CALL, MAP_DESCRIPTORS, &mut map)?;
            MappedDescriptors::new(fd, map).map_err(|error| failed(CALL, &error))
        }
    }

    /// Sets how the host polls for the VM's idle vCPUs.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # use pvirq_protocol::ioctl::Poll;
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// pvirq.set_poll(&Poll::fixed(100_000))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_poll(&self, poll: &Poll) -> Result<(), Error> {
        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_SET_POLL", SET_POLL, &mut { *poll }) }
    }

    /// Reads how the host polls for the VM's idle vCPUs.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// println!("for {} ns", pvirq.poll()?.host_poll_ns);
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll(&self) -> Result<Poll, Error> {
        let mut poll = Poll::fixed(0);

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_GET_POLL", GET_POLL, &mut poll) }?;
        Ok(poll)
    }

    /// Allows the guest to register descriptors, as a new VM does, or forbids it, which ends the registration.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// pvirq.set_posting(false)?;
    /// assert_eq!(pvirq.registration()?.epoch, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_posting(&self, allowed: bool) -> Result<(), Error> {
        let mut posting = Posting::new(allowed);

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_SET_POSTING", SET_POSTING, &mut posting) }
    }

    /// Reads which registration the VM has, and how the one before it ended.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # use pvirq_protocol::ioctl::EndReason;
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// let registration = pvirq.registration()?;
    /// match registration.epoch {
    ///     0 => println!("ended: {:?}", EndReason::from_number(registration.ended)),
    ///     _ => println!("{} descriptors at {:#x}", registration.count, registration.address),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn registration(&self) -> Result<Registration, Error> {
        let mut registration = Registration::new();

        // SAFETY: The argument is of the size that the number says.
        unsafe {
            self.call(
                "PVIRQ_GET_REGISTRATION",
                GET_REGISTRATION,
                &mut registration,
            )
        }?;
        Ok(registration)
    }

    /// Ends the guest's registration. What is pending is injected, and the guest may register again.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// if pvirq.registration()?.epoch != 0 {
    ///     pvirq.end_registration()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn end_registration(&self) -> Result<(), Error> {
        const CALL: &str = "PVIRQ_END_REGISTRATION";

        // SAFETY: The ioctl takes no argument.
        match unsafe { libc::ioctl(self.vm.as_raw_fd(), END_REGISTRATION.into()) } {
            0 => Ok(()),
            _ => Err(failed(CALL, &io::Error::last_os_error())),
        }
    }

    /// Reads which interrupts of a vCPU are posted and not yet injected. They stay posted.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(pvirq: Extension<'_>) -> Result<(), Error> {
    /// for vector in pvirq.posted(0)? {
    ///     println!("{:#x} waits", vector.get());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn posted(&self, vcpu: u32) -> Result<Vectors, Error> {
        let mut posted = Posted::of(vcpu);

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_GET_POSTED", GET_POSTED, &mut posted) }?;
        Ok(Vectors::from_words(posted.vectors))
    }

    /// Posts more interrupts to a vCPU: what [`posted`](Extension::posted) has read in the VM that was saved. If the vCPU has run before, `KVM_SET_LAPIC` goes first.
    ///
    /// ```no_run
    /// # use pvirq::{error::Error, extension::Extension};
    /// # fn example(saved: Extension<'_>, restored: Extension<'_>) -> Result<(), Error> {
    /// restored.set_posted(0, saved.posted(0)?)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_posted(&self, vcpu: u32, vectors: Vectors) -> Result<(), Error> {
        let mut posted = Posted {
            vectors: vectors.words(),
            ..Posted::of(vcpu)
        };

        // SAFETY: The argument is of the size that the number says.
        unsafe { self.call("PVIRQ_SET_POSTED", SET_POSTED, &mut posted) }
    }

    /// Makes a call.
    ///
    /// # Safety
    ///
    /// `argument` must be as large as `number` says, and all that the host may write there must be valid.
    unsafe fn call<T>(
        &self,
        call: &'static str,
        number: u32,
        argument: &mut T,
    ) -> Result<(), Error> {
        // SAFETY: The caller vouches for the argument.
        unsafe { self.call_for_value(call, number, argument) }.map(drop)
    }

    /// Makes a call, and returns what it does.
    ///
    /// # Safety
    ///
    /// As for [`Extension::call`].
    unsafe fn call_for_value<T>(
        &self,
        call: &'static str,
        number: u32,
        argument: &mut T,
    ) -> Result<libc::c_int, Error> {
        // SAFETY: The caller vouches for the argument.
        match unsafe { libc::ioctl(self.vm.as_raw_fd(), number.into(), argument) } {
            value @ 0.. => Ok(value),
            _ => Err(failed(call, &io::Error::last_os_error())),
        }
    }
}

fn failed(call: &'static str, error: &io::Error) -> Error {
    Error::Injection {
        call,
        errno: error.raw_os_error().unwrap_or(0),
    }
}
