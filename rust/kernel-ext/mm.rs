// SPDX-License-Identifier: GPL-2.0

//! Memory of user space: mappings, pinned pages.

pub mod revocable_pages;
pub mod user_mapping;
pub mod user_pages;
