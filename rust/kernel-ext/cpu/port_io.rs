// SPDX-License-Identifier: GPL-2.0

//! I/O ports without a device.
//!
//! C headers: [`include/linux/ioport.h`](srctree/include/linux/ioport.h),
//! [`arch/x86/include/asm/shared/io.h`](srctree/arch/x86/include/asm/shared/io.h)

use core::{
    arch::asm,
    marker::PhantomData, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// A claimed range of I/O ports.
///
/// # Invariants
///
/// This owns the range in `ioport_resource`. Accesses of 32 bits there affect no memory but that which
/// is shared with the party that answers.
pub struct Ports {
    base: u16,
    len: u16,
}

impl Ports {
    /// Claims `len` ports from `base` on, under a name for `/proc/ioports`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if one of them is claimed already.
    ///
    /// # Safety
    ///
    /// If these ports are not claimed, accesses of 32 bits there must affect no memory but that which
    /// is shared with the party that answers.
    pub unsafe fn claim(base: u16, len: u16, name: &'static CStr) -> Result<Self> {
        // SAFETY: The resource is the kernel's own, the name is static, and the function takes its
        // own lock.
        let region = unsafe {
            bindings::__request_region(
                &raw mut bindings::ioport_resource,
                base.into(),
                len.into(),
                name.as_char_ptr(),
                0,
            )
        };
        if region.is_null() {
            return Err(EBUSY);
        }
        // INVARIANT: Just claimed. The rest is a safety requirement.
        Ok(Self { base, len })
    }

    /// Returns the first port.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Returns the port at `offset`, for others to write to.
    #[inline]
    pub fn at(&self, offset: u16) -> Port<'_> {
        Port {
            number: self.port(offset),
            _ports: PhantomData,
        }
    }

    /// Returns the number of the port at `offset`, or of the first one if `offset` is not in the range.
    #[inline]
    fn port(&self, offset: u16) -> u16 {
        // The range does not wrap, as it has been claimed.
        match offset {
            offset if offset < self.len => self.base.wrapping_add(offset),
            _ => self.base,
        }
    }

    /// Reads 32 bits. Any context.
    #[inline]
    pub fn read(&self, offset: u16) -> u32 {
        let value;
        // SAFETY: By the type invariants the port may be read.
        unsafe {
            asm!("in eax, dx", in("dx") self.port(offset), out("eax") value,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes 32 bits. Any context.
    #[inline]
    pub fn write(&self, offset: u16, value: u32) {
        // SAFETY: By the type invariants the port may be written to. The assembly is a compiler
        // barrier, so the party that answers sees what was stored before.
        unsafe {
            asm!("out dx, eax", in("dx") self.port(offset), in("eax") value,
                options(nostack, preserves_flags));
        }
    }
}

/// One port of a range.
pub struct Port<'a> {
    number: u16,
    _ports: PhantomData<&'a Ports>,
}

impl Port<'_> {
    /// Returns the number. Accesses of 32 bits are allowed, see [`Ports::claim`].
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this owns the range.
        unsafe {
            bindings::__release_region(
                &raw mut bindings::ioport_resource,
                self.base.into(),
                self.len.into(),
            );
        }
    }
}
