// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Eventfds that the kernel signals: at the end of asynchronous reads, see io_submit(2).

use std::{fs::File, io, os::fd::AsRawFd};

use vmm::error::Error;
use vmm_sys_util::eventfd::EventFd;

/// `IOCB_CMD_PREAD` and `IOCB_FLAG_RESFD` of `include/uapi/linux/aio_abi.h`.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb` of a little-endian machine.
#[derive(Default)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// Reads of nothing, each of which ends with a signal, and at once.
pub struct Submission {
    context: libc::c_ulong,
    reads: Vec<Iocb>,
    _file: File,
}

impl Submission {
    /// Prepares a read for each eventfd.
    pub fn new(eventfds: &[EventFd]) -> Result<Self, Error> {
        let file =
            File::open("/dev/zero").map_err(Error::os("cannot open what can always be read"))?;
        let mut context: libc::c_ulong = 0;

        // SAFETY: The context is written, and is 0 before, as it should be.
        if unsafe { libc::syscall(libc::SYS_io_setup, eventfds.len(), &mut context) } != 0 {
            let error = io::Error::last_os_error();
            return Err(Error::os("cannot prepare asynchronous reads")(error));
        }
        let reads = eventfds
            .iter()
            .map(|eventfd| Iocb {
                opcode: IOCB_CMD_PREAD,
                file: file.as_raw_fd() as u32,
                flags: IOCB_FLAG_RESFD,
                eventfd: eventfd.as_raw_fd() as u32,
                ..Iocb::default()
            })
            .collect();
        Ok(Submission {
            context,
            reads,
            _file: file,
        })
    }

    /// Makes the reads, once.
    pub fn submit(&self) -> Result<(), Error> {
        let pointers: Vec<*const Iocb> = self.reads.iter().map(std::ptr::from_ref).collect();

        // SAFETY: The reads are of no bytes, and write nothing but their completions, which are the kernel's.
        let submitted = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                pointers.len(),
                pointers.as_ptr(),
            )
        };
        if usize::try_from(submitted) != Ok(pointers.len()) {
            let error = io::Error::last_os_error();
            return Err(Error::os("cannot read asynchronously")(error));
        }
        Ok(())
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        // SAFETY: The context is ours, and all of its reads have ended.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
