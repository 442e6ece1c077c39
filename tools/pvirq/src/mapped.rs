// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A guest's descriptors in the VMM's memory, so that a device's thread posts without a system call.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, RawFd},
    ptr::{null_mut, NonNull},
};

use pvirq_protocol::{ioctl::Map, Descriptor, Posted, Vector};

/// The descriptors that a guest has registered, as long as it has.
///
/// When the registration ends, the pages are no longer the guest's, and each post returns [`Posted::Kick`]. A caller need
/// not check for the end in another way.
///
/// ```no_run
/// use pvirq::{extension::{Extension, Route}, error::Error};
/// use pvirq_protocol::{Posted, Vector};
/// use vmm_sys_util::eventfd::EventFd;
///
/// # fn example(pvirq: Extension<'_>, device: &EventFd, vector: Vector) -> Result<(), Box<dyn std::error::Error>> {
/// pvirq.bind(device, &Route::to_vcpu(0, vector))?;
/// let descriptors = pvirq.map_descriptors()?;
/// if descriptors.post(0, vector) == Posted::Kick {
///     device.write(1)?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct MappedDescriptors {
    address: NonNull<u8>,
    map: Map,
}

// SAFETY: The memory is there for any thread.
unsafe impl Send for MappedDescriptors {}
// SAFETY: What is in the memory is atomic.
unsafe impl Sync for MappedDescriptors {}

impl MappedDescriptors {
    /// Maps the file that PVIRQ_MAP_DESCRIPTORS has made, and closes it.
    ///
    /// # Safety
    ///
    /// `fd` and `map` must be what that call has returned, and `fd` is the caller's to give away.
    pub(crate) unsafe fn new(fd: RawFd, map: Map) -> io::Result<Self> {
        // SAFETY: The caller gives it away.
        let file = unsafe { File::from_raw_fd(fd) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;

        // SAFETY: This is a new mapping, wherever there is room.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                Self::len(&map),
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(start) if address != libc::MAP_FAILED => Ok(MappedDescriptors {
                address: start,
                map,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn len(map: &Map) -> usize {
        map.offset as usize + map.count as usize * size_of::<Descriptor>()
    }

    /// The descriptor of a vCPU, if there is one.
    ///
    /// ```no_run
    /// # fn example(descriptors: &pvirq::mapped::MappedDescriptors) {
    /// println!("{:?}", descriptors.get(0).map(|descriptor| descriptor.host_state()));
    /// # }
    /// ```
    pub fn get(&self, vcpu: u32) -> Option<&Descriptor> {
        if vcpu >= self.map.count {
            return None;
        }
        // SAFETY: The memory is so long, and there as long as this is. A descriptor is atomic integers, of which every
        // bit pattern is valid; the host says where they begin, which is aligned.
        Some(unsafe {
            self.address
                .as_ptr()
                .add(self.map.offset as usize)
                .cast::<Descriptor>()
                .add(vcpu as usize)
                .as_ref()?
        })
    }

    /// Posts an interrupt. If the vCPU has no descriptor, it must be kicked.
    ///
    /// ```no_run
    /// # use pvirq_protocol::{Posted, Vector};
    /// # fn example(descriptors: &pvirq::mapped::MappedDescriptors, vector: Vector) {
    /// assert!(matches!(descriptors.post(u32::MAX, vector), Posted::Kick));
    /// # }
    /// ```
    pub fn post(&self, vcpu: u32, vector: Vector) -> Posted {
        self.get(vcpu)
            .map_or(Posted::Kick, |descriptor| descriptor.post(vector))
    }

    /// Posts an interrupt whose handler must not run more often than there are posts, see [`Descriptor::post_once`].
    ///
    /// ```no_run
    /// # use pvirq_protocol::{Posted, Vector};
    /// # fn example(descriptors: &pvirq::mapped::MappedDescriptors, vector: Vector) {
    /// assert!(matches!(descriptors.post_once(u32::MAX, vector), Posted::Kick));
    /// # }
    /// ```
    pub fn post_once(&self, vcpu: u32, vector: Vector) -> Posted {
        self.get(vcpu)
            .map_or(Posted::Kick, |descriptor| descriptor.post_once(vector))
    }
}

impl Drop for MappedDescriptors {
    fn drop(&mut self) {
        // SAFETY: Nothing borrows from it any more.
        unsafe { libc::munmap(self.address.as_ptr().cast(), Self::len(&self.map)) };
    }
}
