// SPDX-License-Identifier: GPL-2.0 OR MIT

//! KVM's binary statistics of a vCPU.

use std::{
    fs::File,
    io,
    mem::{offset_of, size_of},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
};

use kvm_bindings::{kvm_stats_desc, kvm_stats_header};
use kvm_ioctls::VcpuFd;

use crate::{error::Error, exits::Statistics};

/// `_IO(KVMIO, 0xce)`; kvm-ioctls has no wrapper for it.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// A vCPU's statistics.
pub struct VcpuStats {
    file: File,
    /// Where each count is in the file.
    offsets: [u64; NAMES.len()],
}

/// The statistics that we read, by KVM's names.
const NAMES: [&str; 9] = [
    "exits",
    "halt_exits",
    "io_exits",
    "irq_exits",
    "irq_window_exits",
    "hypercalls",
    "halt_successful_poll",
    "halt_poll_success_ns",
    "halt_poll_fail_ns",
];

impl VcpuStats {
    /// Opens a vCPU's statistics. To be called before the vCPU first runs: KVM takes the vCPU's lock for it.
    pub fn open(vcpu: &VcpuFd) -> Result<Self, Error> {
        // SAFETY: The call takes no argument.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
        if fd < 0 {
            return Err(Error::os("KVM_GET_STATS_FD failed")(
                io::Error::last_os_error(),
            ));
        }
        // SAFETY: The file descriptor is new and ours.
        let file = unsafe { File::from_raw_fd(fd) };
        let offsets = find(|buffer, offset| file.read_exact_at(buffer, offset))
            .map_err(Error::os("cannot read KVM's statistics"))?;
        Ok(VcpuStats { file, offsets })
    }

    /// Reads the counts.
    pub fn read(&self) -> Result<Statistics, Error> {
        let mut counts = [0; NAMES.len()];
        for (count, offset) in counts.iter_mut().zip(self.offsets) {
            let mut bytes = [0; size_of::<u64>()];
            self.file
                .read_exact_at(&mut bytes, offset)
                .map_err(Error::os("cannot read KVM's statistics"))?;
            *count = u64::from_ne_bytes(bytes);
        }
        let [total, halt, io, irq, irq_window, hypercalls, halt_polls, success_ns, fail_ns] =
            counts;
        Ok(Statistics {
            total,
            halt,
            io,
            irq,
            irq_window,
            hypercalls,
            halt_polls,
            halt_polled_ns: success_ns + fail_ns,
        })
    }
}

/// Finds where the counts are, from the descriptors in the file.
fn find(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<[u64; NAMES.len()]> {
    let mut header = [0; size_of::<kvm_stats_header>()];
    read(&mut header, 0)?;
    let number = |bytes: &[u8], offset: usize| {
        u32::from_ne_bytes([
            bytes[offset],
            bytes[offset + 1],
            bytes[offset + 2],
            bytes[offset + 3],
        ])
    };
    let name_size = number(&header, offset_of!(kvm_stats_header, name_size)) as usize;
    let descriptors = number(&header, offset_of!(kvm_stats_header, num_desc)) as usize;
    let descriptors_offset = number(&header, offset_of!(kvm_stats_header, desc_offset));
    let data_offset = number(&header, offset_of!(kvm_stats_header, data_offset));

    // A descriptor is followed by its name, which the structure leaves open.
    let descriptor_size = size_of::<kvm_stats_desc>() + name_size;
    let mut bytes = vec![0; descriptors * descriptor_size];
    read(&mut bytes, descriptors_offset.into())?;

    let mut offsets = [None; NAMES.len()];
    for descriptor in bytes.chunks_exact(descriptor_size) {
        let name = descriptor[size_of::<kvm_stats_desc>()..]
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        if let Some(index) = NAMES.iter().position(|wanted| wanted.as_bytes() == name) {
            let offset = number(descriptor, offset_of!(kvm_stats_desc, offset));
            offsets[index] = Some(u64::from(data_offset) + u64::from(offset));
        }
    }
    let mut found = [0; NAMES.len()];
    for ((found, offset), name) in found.iter_mut().zip(offsets).zip(NAMES) {
        *found = offset.ok_or_else(|| io::Error::other(format!("there is no '{name}'")))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A statistics file with these counts, in an order of its own.
    fn file(names: &[&str]) -> Vec<u8> {
        const NAME_SIZE: usize = 48;
        let descriptor_size = size_of::<kvm_stats_desc>() + NAME_SIZE;
        let descriptors_offset = size_of::<kvm_stats_header>() + NAME_SIZE;
        let header = [0, NAME_SIZE, names.len(), 0, descriptors_offset, 4096];
        let mut bytes: Vec<u8> = header
            .iter()
            .flat_map(|&field| (field as u32).to_ne_bytes())
            .collect();
        bytes.resize(descriptors_offset, 0);
        for (index, name) in names.iter().enumerate() {
            let start = bytes.len();
            bytes.resize(start + descriptor_size, 0);
            let offset = start + offset_of!(kvm_stats_desc, offset);
            bytes[offset..offset + 4].copy_from_slice(&(index as u32 * 8).to_ne_bytes());
            let name_start = start + size_of::<kvm_stats_desc>();
            bytes[name_start..name_start + name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
    }

    fn find_in(bytes: &[u8]) -> io::Result<[u64; NAMES.len()]> {
        find(|buffer, offset| {
            let offset = offset as usize;
            buffer.copy_from_slice(
                bytes
                    .get(offset..offset + buffer.len())
                    .ok_or(io::ErrorKind::UnexpectedEof)?,
            );
            Ok(())
        })
    }

    #[test]
    fn counts_are_found_by_name() {
        let names = [
            "hypercalls",
            "irq_exits",
            "exits",
            "nmi_window_exits",
            "io_exits",
            "irq_window_exits",
            "halt_exits",
            "halt_poll_fail_ns",
            "halt_poll_success_ns",
            "halt_successful_poll",
        ];
        assert_eq!(
            find_in(&file(&names)).unwrap(),
            [2, 6, 4, 1, 5, 0, 9, 8, 7].map(|index| 4096 + index * 8)
        );
    }

    #[test]
    fn a_count_that_is_not_there_is_named() {
        let error = find_in(&file(&[
            "exits",
            "halt_exits",
            "io_exits",
            "irq_exits",
            "hypercalls",
        ]))
        .unwrap_err();
        assert_eq!(error.to_string(), "there is no 'irq_window_exits'");
        assert!(find_in(&[0; 8]).is_err());
    }
}
