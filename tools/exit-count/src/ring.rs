// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ring of memory that perf events write their records to.

use std::{
    num::NonZeroUsize,
    os::fd::OwnedFd,
    ptr::{addr_of_mut, NonNull},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use perf_event_open_sys::bindings as perf;

use crate::error::Error;

/// The size of the ring's data, a power of two: thousands of exits, or the timer ticks of a minute.
const DATA_SIZE: usize = 2 << 20;
/// More than the size of a record.
const RECORD_MAX: usize = 4096;
const HEADER_SIZE: usize = size_of::<perf::perf_event_header>();

/// The ring of a perf event, and of those that share it.
pub struct Ring {
    control: NonNull<perf::perf_event_mmap_page>,
    page_size: usize,
}

// SAFETY: The mapping belongs to the process, and the ring is its only user.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of a perf event.
    pub fn map(event: &OwnedFd) -> Result<Self, Error> {
        let page_size = page_size();
        let size = NonZeroUsize::MIN.saturating_add(page_size + DATA_SIZE - 1);
        // SAFETY: The kernel chooses an address where nothing is mapped.
        let control = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                event,
                0,
            )
        };
        match control {
            Ok(control) => Ok(Ring {
                control: control.cast(),
                page_size,
            }),
            Err(errno) => Err(Error::Count(format!(
                "cannot map a perf ring: {errno}; root may, or see kernel.perf_event_mlock_kb"
            ))),
        }
    }

    /// Hands the raw data of each record since the last call to `record`, which says whether it is sound.
    pub fn drain(&mut self, mut record: impl FnMut(&[u8]) -> Option<()>) -> Result<(), Error> {
        let page = self.control.as_ptr();
        // SAFETY: The control page is mapped; the kernel and we agree that these words are accessed atomically.
        let (head, tail) = unsafe {
            (
                AtomicU64::from_ptr(addr_of_mut!((*page).data_head)),
                AtomicU64::from_ptr(addr_of_mut!((*page).data_tail)),
            )
        };
        let end = head.load(Acquire);
        let mut position = tail.load(Acquire);
        let mut bytes = Vec::new();
        let mut result = Ok(());
        if end - position > (DATA_SIZE - RECORD_MAX) as u64 {
            result = Err(Error::Count(
                "the trace ring is full, and has lost exits".into(),
            ));
        }

        while position < end && result.is_ok() {
            self.copy(position, HEADER_SIZE, &mut bytes);
            let kind = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let size = usize::from(u16::from_ne_bytes([bytes[6], bytes[7]]));
            self.copy(position, size.max(HEADER_SIZE), &mut bytes);
            // The raw data comes behind its size.
            let sound = match (kind, bytes.get(HEADER_SIZE + size_of::<u32>()..)) {
                (perf::PERF_RECORD_SAMPLE, Some(raw)) => record(raw),
                _ => Some(()),
            };
            if sound.is_none() || size < HEADER_SIZE {
                result = Err(Error::Count(
                    "a record of the trace is not as the kernel describes it".into(),
                ));
            }
            position += size as u64;
        }
        tail.store(end, Release);
        result
    }

    /// Copies what is at a position of the ring, which may wrap.
    fn copy(&self, position: u64, size: usize, bytes: &mut Vec<u8>) {
        // SAFETY: The data follows the control page.
        let data = unsafe { self.control.as_ptr().cast::<u8>().add(self.page_size) };
        let start = position as usize % DATA_SIZE;
        bytes.clear();
        bytes.extend((start..start + size).map(|index| {
            // SAFETY: The index is inside the data, and the kernel does not write between the tail and the head.
            unsafe { data.add(index % DATA_SIZE).read() }
        }));
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and nothing refers to it any more.
        let _ = unsafe { munmap(self.control.cast(), self.page_size + DATA_SIZE) };
    }
}

fn page_size() -> usize {
    // SAFETY: The call has no requirements.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
