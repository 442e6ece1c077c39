// SPDX-License-Identifier: GPL-2.0

//! The end of the registration when the system stops or is suspended.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::system::SystemCore;

use crate::guest::Guest;

/// Makes the host forget the descriptors before the kernel ends or is suspended, as their memory may then be reused.
///
/// CPUs go on as before: all of their posts are kicks.
pub(crate) struct Stopping(pub(crate) Arc<Guest>);

impl SystemCore for Stopping {
    fn suspend(&self) {
        self.shutdown();
    }

    fn resume(&self) {
        self.0.host().announce();
        self.0.registration.resume();
    }

    fn shutdown(&self) {
        if !self.0.registration.end() {
            pr_err!("the host does not release the descriptors\n");
        }
    }
}
