// SPDX-License-Identifier: GPL-2.0

//! The files that a VMM opens and calls: `/dev/pvirq`, and those that wrap KVM's.

mod argument;
pub(crate) mod device;
mod vcpu_file;
pub(crate) mod vm_file;
mod vm_ioctl;
mod wrap;

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::{
    host::Host,
    injection::bindings::Bindings, //
};

/// The state that the files of all VMs share.
#[pin_data]
pub(crate) struct Overlay {
    pub(crate) host: Arc<Host>,
    /// The bindings of all VMs: a chain of eventfds can lead from one VM to another.
    #[pin]
    pub(crate) bindings: Bindings,
    /// Held while a VM's file descriptor refers to KVM's file instead of ours, see [`VmFile`](vm_file::VmFile). No
    /// other lock of this module is taken under it.
    #[pin]
    pub(crate) lending: Mutex<()>,
}

impl Overlay {
    /// Creates an overlay without VMs.
    pub(crate) fn new(host: Arc<Host>) -> impl PinInit<Self> {
        pin_init!(Self {
            host,
            bindings <- Bindings::new(),
            lending <- new_mutex!((), "pvirq_lending"),
        })
    }
}
