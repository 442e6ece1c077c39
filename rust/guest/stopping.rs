// SPDX-License-Identifier: GPL-2.0

//! The end of the system, and its suspension.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::system::SystemCore;

use crate::guest::Guest;

/// Lets the host forget the descriptors when this kernel does, or their memory becomes another's.
///
/// CPUs go on as before meanwhile: whatever they post is kicked.
pub(crate) struct Stopping(pub(crate) Arc<Guest>);

impl SystemCore for Stopping {
    fn suspend(&self) {
        self.shutdown();
    }

    fn resume(&self) {
        self.0.host().greet();
        self.0.registration.resume();
    }

    fn shutdown(&self) {
        if !self.0.registration.end() {
            pr_err!("the host does not give the descriptors back\n");
        }
    }
}
