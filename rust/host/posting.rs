// SPDX-License-Identifier: GPL-2.0

//! The guest's descriptors, and their [`registration`].

pub(crate) mod descriptors;
pub(crate) mod descriptors_file;
pub(crate) mod epoch;
pub(crate) mod history;
pub(crate) mod registration;
