// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Why exits or CPU time cannot be counted.

use std::io;

/// Why exits or CPU time cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{0}")]
    Os(String, #[source] io::Error),
    /// The kernel does not count, or counts what does not fit together.
    #[error("cannot count exits: {0}")]
    Count(String),
}

impl Error {
    /// Returns the error of a failed system call, which was for `what`.
    pub fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Os(what, source)
    }
}
