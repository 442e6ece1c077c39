// SPDX-License-Identifier: GPL-2.0

//! The memory of a vCPU that KVM shares with the VMM: `struct kvm_run`, and the data of port accesses behind it.

use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Atomic, //
};
use kernel_ext::{
    mm::user_mapping::UserMapping,
    mm::user_pages::{
        Shared,
        UserPage, //
    },
    sync::read_once::ReadOnce, //
};

use crate::arch::{
    Access,
    GuestAccess,
    Ports, //
};

/// `KVM_EXIT_IO` of `include/uapi/linux/kvm.h`.
const KVM_EXIT_IO: u32 = 2;
/// `KVM_EXIT_IO_OUT`.
const KVM_EXIT_IO_OUT: u8 = 1;
/// `KVM_PIO_PAGE_OFFSET`: the page with the data of port accesses.
const KVM_PIO_PAGE_OFFSET: usize = 1;

/// The beginning of `struct kvm_run`.
#[repr(C)]
struct KvmRun {
    /// `request_interrupt_window`, `immediate_exit`, and padding.
    requests: Atomic<u64>,
    exit_reason: Atomic<u32>,
    /// `ready_for_interrupt_injection`, `if_flag`, `flags`.
    interrupts: Atomic<u32>,
    cr8: Atomic<u64>,
    apic_base: Atomic<u64>,
    /// For the exit [`KVM_EXIT_IO`]: `direction`, `size`, `port`, `count`.
    io: Atomic<u64>,
    io_data_offset: Atomic<u64>,
}

const _: () = assert!(core::mem::offset_of!(KvmRun, io) == 32);

impl KvmRun {
    fn immediate_exit(&self) -> bool {
        self.requests.read_once().to_le_bytes()[1] != 0
    }
}

// SAFETY: All fields are atomic integers.
unsafe impl Shared for KvmRun {}

/// A port access that `KVM_RUN` has returned for.
#[derive(Clone, Copy)]
struct PortAccess {
    port: u16,
    /// In bytes: 1, 2 or 4.
    size: u8,
    write: bool,
    /// The number of accesses; more than 1 for string instructions.
    count: u32,
}

/// A vCPU's shared memory.
///
/// The VMM can write to it at any time, and harms only itself if it does so while KVM runs the vCPU.
pub(crate) struct RunArea {
    run: UserPage,
    data: UserPage,
}

impl RunArea {
    /// Pins the memory of the vCPU with KVM's file `real`, by a temporary mapping in the current process.
    pub(crate) fn find(real: &File) -> Result<Self> {
        let data = KVM_PIO_PAGE_OFFSET * PAGE_SIZE;
        let mapping = UserMapping::of(real, data + PAGE_SIZE)?;

        Ok(Self {
            run: UserPage::pin(mapping.address(0))?,
            data: UserPage::pin(mapping.address(data))?,
        })
    }

    #[inline]
    fn run(&self) -> Option<&KvmRun> {
        self.run.get(0, 1)?.first()
    }

    fn data(&self) -> Option<&Atomic<u32>> {
        self.data.get(0, 1)?.first()
    }

    /// Returns whether the VMM has set `immediate_exit`: `KVM_RUN` has to return at once.
    pub(crate) fn immediate_exit(&self) -> bool {
        self.run().is_some_and(KvmRun::immediate_exit)
    }

    /// Returns the port access that made the vCPU exit, if it was one.
    #[inline]
    fn port_access(&self) -> Option<PortAccess> {
        let run = self.run()?;
        if run.exit_reason.read_once() != KVM_EXIT_IO {
            return None;
        }

        let [direction, size, port @ .., c0, c1, c2, c3] = run.io.read_once().to_le_bytes();
        Some(PortAccess {
            port: u16::from_le_bytes(port),
            size,
            write: direction == KVM_EXIT_IO_OUT,
            count: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Decodes an access to the port of the guest interface at `offset`.
    #[cold]
    fn decode(&self, access: PortAccess, offset: u16) -> Access {
        if access.size != 4 || access.count != 1 {
            Access::Malformed
        } else if access.write {
            let value = self.data().map_or(0, |data| data.read_once());
            Access::Write(offset, value)
        } else {
            Access::Read(offset)
        }
    }
}

impl GuestAccess for RunArea {
    type Place = Ports;

    #[inline(always)]
    fn access(&self, ports: Ports) -> Option<Access> {
        let access = self.port_access()?;
        let offset = ports.offset(access.port)?;

        Some(self.decode(access, offset))
    }

    fn answer(&self, value: u32) {
        if let Some(data) = self.data() {
            data.write_once(value);
        }
    }

    /// Sets all bits that the access covers, as a read of an absent device does.
    fn answer_absent(&self) {
        let words = self
            .port_access()
            .map_or(0, |access| {
                (access.count as usize).saturating_mul(access.size.into())
            })
            .min(PAGE_SIZE)
            .div_ceil(size_of::<u32>());
        let data: &[Atomic<u32>] = self.data.get(0, words).unwrap_or_default();

        data.iter().for_each(|word| word.write_once(u32::MAX));
    }
}
