// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Why a device cannot be used, or a call failed.

use std::{io, path::PathBuf};

/// Why a device cannot be used, or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device file does not exist.
    #[error("no such device: {} ({})", .0.display(), no_device_hint(.0))]
    NoDevice(PathBuf),
    /// The device may not be opened by this user.
    #[error("not permitted to open {}: be root, or a member of the group that owns it (usually kvm)", .0.display())]
    NotPermitted(PathBuf),
    /// The device cannot be opened for another reason.
    #[error("cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The file is no KVM device.
    #[error("{} does not speak the KVM API: KVM_GET_API_VERSION says {answer}, not 12", device.display())]
    NotKvm {
        /// The device.
        device: PathBuf,
        /// What it answered.
        answer: String,
    },
    /// KVM on this machine lacks something.
    #[error("{}: KVM lacks {what}", device.display())]
    Lacks {
        /// The device.
        device: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// A call of the KVM API failed.
    #[error("{0} failed")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// The VM's device is not pvirq, or one of another version.
    #[error("this VM is not one of /dev/pvirq: {0}")]
    NoExtension(String),
    /// An eventfd cannot be bound, or there is none bound.
    #[error("{call}: {}", bind_hint(*.errno))]
    Injection {
        /// The call that failed.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

impl Error {
    /// A failed call of the KVM API, by name.
    pub fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |source| Error::Kvm(what, source)
    }
}

/// What an errno of `PVIRQ_BIND` and its kind stands for.
fn bind_hint(errno: i32) -> String {
    match errno {
        libc::EINVAL => "the host does not know a member of the argument".into(),
        libc::EIO => "another process has made the VM".into(),
        libc::EBADF => "the file descriptor is not open".into(),
        libc::EBADFD => "the file is not an eventfd".into(),
        libc::ERANGE => "a vector that is reserved, or out of range".into(),
        libc::ENOENT => "no such vCPU or CPU, or the eventfd is not bound in this VM".into(),
        libc::ENXIO => "the guest has registered no descriptor for this vCPU".into(),
        libc::ELOOP => "a source that is a sink, or a sink that is a source".into(),
        libc::EEXIST => "the source is bound already".into(),
        libc::EBUSY => "the source is in use: by KVM's irqfd, or by another VM".into(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn no_device_hint(path: &std::path::Path) -> &'static str {
    match path.to_str() {
        Some("/dev/kvm") => "is the kvm module loaded, and virtualisation enabled?",
        Some("/dev/pvirq") => "is pvirq.ko loaded?",
        _ => "nothing is there",
    }
}
