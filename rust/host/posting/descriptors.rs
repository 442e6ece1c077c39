// SPDX-License-Identifier: GPL-2.0

//! The descriptors that a guest has registered.
//!
//! They are in guest memory, which the host does not trust: it keeps its own state elsewhere, and reads each word there
//! once per use. The pages are pinned, so that neither the guest nor its VMM can take them away.

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

// SAFETY: A descriptor consists of atomic integers, to be shared with a guest, and is aligned to 64 bytes.
unsafe impl Shared for GuestDescriptor {}

/// A guest's descriptors, and the injector for the vectors that are posted there.
pub(crate) struct Descriptors {
    array: Array,
    /// The address of the array in the VMM.
    user: u64,
    pages: UserPages,
    _charge: LockedPages,
    injector: Arc<MsiInjector>,
    epoch: Epoch,
}

impl Descriptors {
    /// Pins and maps `array`, which has been [checked](Array::check) and is at `user` in the current process. vCPUs and
    /// senders in the host find it once it is in an [`RcuBox`](kernel_ext::sync::rcu_box::RcuBox).
    pub(crate) fn new(
        array: Array,
        user: u64,
        injector: Arc<MsiInjector>,
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
            injector,
            epoch,
        };

        // The memory's old contents must not tell a sender that a vCPU will poll.
        for descriptor in this.all() {
            descriptor.0.set_host_state(HostState::Running);
            descriptor.0.set_idle_end(IdleEnd::Expired);
            descriptor
                .0
                .set_poll_windows(windows.guest_ns, windows.host_ns);
        }
        Ok(this)
    }

    /// Returns the location of the array in the guest, and its address in the VMM.
    pub(crate) fn location(&self) -> (Array, u64) {
        (self.array, self.user)
    }

    /// Returns the epoch of this registration.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the injector, of which each vCPU's thread uses the slot of the vCPU's ID.
    pub(crate) fn injector(&self) -> &Arc<MsiInjector> {
        &self.injector
    }

    /// Returns how many slots the injector of `count` descriptors needs. The last one is for [`Descriptors::close`].
    pub(crate) fn slots(count: u32) -> u32 {
        count.saturating_add(1)
    }

    fn all(&self) -> &[GuestDescriptor] {
        // Whole pages are mapped, so the offset in the first page is the same in the VMM and here.
        let offset = self.user as usize % PAGE_SIZE;

        self.pages
            .get(offset, self.array.count as usize)
            .unwrap_or_default()
    }

    /// Returns the descriptor of the vCPU `id`, if the guest has registered one for it.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&Descriptor> {
        Some(&self.all().get(id as usize)?.0)
    }

    /// Returns the pages by which a VMM maps the descriptors, the offset of the first one in bytes, and their number.
    pub(crate) fn revocable_pages(&self) -> (Arc<RevocablePages>, u32, u32) {
        let offset = self.user as usize % PAGE_SIZE;

        (self.pages.window().clone(), offset as u32, self.array.count)
    }

    /// Stops using the descriptors, and injects the vectors that are pending in them.
    ///
    /// No vCPU's thread may use them any more. Later posts return `Kick`. A guest that is idle finds windows of 0, so
    /// it neither polls nor makes an idle call; one that is in an idle call finds afterwards that it should halt. A VMM
    /// that has mapped the descriptors finds blank ones, whose vCPUs will not poll.
    pub(crate) fn close(&self) {
        self.pages.window().close();
        for (id, descriptor) in (0..).zip(self.all()) {
            let mut vectors = descriptor.0.close();

            vectors.remove_reserved();
            for vector in vectors {
                // Outside the VMM's process this fails: the VMM has exited, or passed the VM's last descriptor on.
                let _ = self.injector.send(self.array.count, id, vector);
            }
        }
    }
}
