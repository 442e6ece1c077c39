// SPDX-License-Identifier: GPL-2.0

//! I/O ports that no device driver has.
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

/// A range of I/O ports, which nobody else can claim while this lives.
///
/// # Invariants
///
/// The range belongs to this in `ioport_resource`, and whoever has made it promises that accesses
/// of 32 bits there have no effect on memory but on such as is shared with whatever answers.
pub struct Ports {
    base: u16,
    len: u16,
}

impl Ports {
    /// Claims `len` ports from `base` on, under a name for `/proc/ioports`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if one of them is somebody's.
    ///
    /// # Safety
    ///
    /// If nobody has claimed these ports, accesses of 32 bits there must have no effect on memory
    /// but on such as is shared with whatever answers.
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
        // INVARIANT: Just claimed. The rest is what the caller promises.
        Ok(Self { base, len })
    }

    /// Returns the first port.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Returns a port, for others to write it.
    #[inline]
    pub fn at(&self, offset: u16) -> Port<'_> {
        Port {
            number: self.port(offset),
            _ports: PhantomData,
        }
    }

    /// Returns the port at `offset`, or the first one for an offset that is not in the range.
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
        // SAFETY: By the type invariants it reads a port of ours.
        unsafe {
            asm!("in eax, dx", in("dx") self.port(offset), out("eax") value,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes 32 bits. Any context.
    #[inline]
    pub fn write(&self, offset: u16, value: u32) {
        // SAFETY: By the type invariants it writes a port of ours. The assembly is a compiler
        // barrier, so that whatever answers sees what was stored before.
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
    /// Its number. Accesses of 32 bits are allowed, see [`Ports::claim`].
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the range is ours.
        unsafe {
            bindings::__release_region(
                &raw mut bindings::ioport_resource,
                self.base.into(),
                self.len.into(),
            );
        }
    }
}
