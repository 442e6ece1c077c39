// SPDX-License-Identifier: GPL-2.0

//! The arguments of pvirq's ioctls, in user space's layout.

use kernel::{
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};
use kernel_ext::fs::ioctl::Ioctl;
use pvirq_protocol::ioctl;

/// An argument in user space's layout.
#[repr(transparent)]
pub(super) struct Wire<T>(T);

macro_rules! arguments {
    ($($name:ident),+) => {
        $(
            // SAFETY: Its fields are an even number of `u32` or `i32`, and then `u64`: there is no padding.
            unsafe impl FromBytes for Wire<ioctl::$name> {}
            // SAFETY: As above.
            unsafe impl AsBytes for Wire<ioctl::$name> {}
        )+
    };
}

arguments!(
    Bind,
    BottomHalf,
    Map,
    Poll,
    Posted,
    Posting,
    Registration,
    Source,
    Unbind
);

/// Reads an argument.
///
/// # Errors
///
/// `EINVAL` if its first member, the size, is not `T`'s, and `EFAULT`.
pub(super) fn read<T>(request: Ioctl<'_>) -> Result<T>
where
    Wire<T>: FromBytes,
{
    // A caller with another size gets `EINVAL` even if it has less memory than `T` takes.
    if request.read_at::<u32>(0)? as usize != size_of::<T>() {
        return Err(EINVAL);
    }
    Ok(request.read_at::<Wire<T>>(0)?.0)
}

/// Writes an argument.
pub(super) fn write<T>(request: Ioctl<'_>, value: T) -> Result<isize>
where
    Wire<T>: AsBytes,
{
    request.write(&Wire(value))?;
    Ok(0)
}

/// Returns `EINVAL` unless `valid`.
pub(super) fn check(valid: bool) -> Result {
    valid.then_some(()).ok_or(EINVAL)
}
