// SPDX-License-Identifier: GPL-2.0

//! The descriptors that a guest has registered.
//!
//! They are guest memory, and the guest is not to be trusted: what the host knows it keeps
//! elsewhere, and what it reads here it reads once. The pages are pinned, so that nothing which the
//! guest or its VMM does takes them away.

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::{
    mm::revocable_pages::RevocablePages,
    mm::user_pages::{
        LockedPages,
        Shared,
        UserPages, //
    }, //
};
use pvirq_protocol::{
    registers::{
        Array,
        Status, //
    },
    Descriptor,
    HostState,
    IdleEnd, //
};

use super::epoch::Epoch;
use crate::{
    arch::{
        Inject,
        MsiInjector, //
    },
    vm::polling::Windows, //
};

/// A descriptor in guest memory.
#[repr(transparent)]
struct GuestDescriptor(Descriptor);

// SAFETY: A descriptor is atomic integers, made to be shared with a guest, and aligned to 64 bytes.
unsafe impl Shared for GuestDescriptor {}

/// A guest's descriptors, and what it takes to deliver what is posted there.
pub(crate) struct Descriptors {
    array: Array,
    /// The address of the array in the VMM.
    user: u64,
    pages: UserPages,
    _charge: LockedPages,
    messages: Arc<MsiInjector>,
    epoch: Epoch,
}

impl Descriptors {
    /// Pins and maps `array`, which has been [checked](Array::check) and is at `user` in the current
    /// process. Nobody knows of it before it is [published](kernel_ext::sync::rcu_box::RcuBox).
    pub(crate) fn new(
        array: Array,
        user: u64,
        messages: Arc<MsiInjector>,
        windows: Windows,
        epoch: Epoch,
    ) -> Result<Self, Status> {
        let no_memory = |_| Status::NoMemory;
        let address = usize::try_from(user).map_err(no_memory)?;
        let offset = address % PAGE_SIZE;
        let size = array.count as usize * size_of::<Descriptor>();
        let count = (offset + size).div_ceil(PAGE_SIZE);

        let charge = LockedPages::charge(count).map_err(|_| Status::NoMemory)?;
        let pages = UserPages::pin(address - offset, count).map_err(|err| match err {
            EFAULT => Status::NotRam,
            _ => Status::NoMemory,
        })?;
        let this = Self {
            array,
            user,
            pages,
            _charge: charge,
            messages,
            epoch,
        };

        // Whatever the guest has left there must not make a sender believe that a vCPU will look.
        for descriptor in this.all() {
            descriptor.0.set_host_state(HostState::Running);
            descriptor.0.set_idle_end(IdleEnd::Expired);
            descriptor
                .0
                .set_poll_windows(windows.guest_ns, windows.host_ns);
        }
        Ok(this)
    }

    /// Returns where the guest says that they are, and where that is in the VMM.
    pub(crate) fn place(&self) -> (Array, u64) {
        (self.array, self.user)
    }

    /// Returns the number of this registration.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the messages, of which each vCPU's thread uses the slot of its APIC ID.
    pub(crate) fn messages(&self) -> &Arc<MsiInjector> {
        &self.messages
    }

    /// Returns how many slots the messages of `count` descriptors have to have: the last one is for
    /// [`Descriptors::close`].
    pub(crate) fn slots(count: u32) -> u32 {
        count.saturating_add(1)
    }

    fn all(&self) -> &[GuestDescriptor] {
        // Pages are whole, so that the offset is the same in the VMM and here.
        let offset = self.user as usize % PAGE_SIZE;

        self.pages
            .get(offset, self.array.count as usize)
            .unwrap_or_default()
    }

    /// Returns the descriptor of the vCPU with this APIC ID, if the guest has registered one for it.
    #[inline]
    pub(crate) fn get(&self, apic_id: u32) -> Option<&Descriptor> {
        Some(&self.all().get(apic_id as usize)?.0)
    }

    /// Returns the window by which VMMs map the descriptors, how many bytes of it are before the first
    /// one, and how many there are.
    pub(crate) fn window(&self) -> (Arc<RevocablePages>, u32, u32) {
        let offset = self.user as usize % PAGE_SIZE;

        (self.pages.window().clone(), offset as u32, self.array.count)
    }

    /// Stops using the descriptors, and delivers what is pending in them.
    ///
    /// No vCPU's thread must use them any more. What is posted from now on is kicked. An idle guest polls for no time,
    /// makes no idle call, and if it is in one, finds afterwards that it should halt. A VMM that posts by itself finds
    /// other descriptors from now on, whose vCPUs do not look.
    pub(crate) fn close(&self) {
        self.pages.window().close();
        for (apic_id, descriptor) in (0..).zip(self.all()) {
            let mut vectors = descriptor.0.close();

            vectors.remove_reserved();
            for vector in vectors {
                // In another process than the VMM's there is nobody left to be interrupted.
                let _ = self.messages.send(self.array.count, apic_id, vector);
            }
        }
    }
}
