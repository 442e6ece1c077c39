// SPDX-License-Identifier: GPL-2.0

//! The module's directory in debugfs, `pvirq`.

use kernel::{
    debugfs::Scope,
    prelude::*,
    sync::Arc, //
};

use crate::host::Host;

/// Shows the totals as long as the result lives.
pub(crate) fn show(host: Arc<Host>) -> impl PinInit<Scope<Arc<Host>>> {
    Scope::dir(host, c"pvirq", |host, dir| {
        dir.read_callback_file(c"vms", host, &|host, f| {
            writeln!(f, "{}", host.totals.vms().live)
        });
        dir.read_callback_file(c"vms_created", host, &|host, f| {
            writeln!(f, "{}", host.totals.vms().created)
        });
        dir.read_callback_file(c"vcpus", host, &|host, f| {
            writeln!(f, "{}", host.totals.vcpus().live)
        });
        dir.read_callback_file(c"vcpus_created", host, &|host, f| {
            writeln!(f, "{}", host.totals.vcpus().created)
        });
        dir.read_callback_file(c"runs", host, &|host, f| {
            writeln!(f, "{}", host.totals.runs())
        });
    })
}
