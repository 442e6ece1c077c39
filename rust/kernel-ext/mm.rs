// SPDX-License-Identifier: GPL-2.0

//! User memory: mappings, and pinned pages.

pub mod revocable_pages;
pub mod user_mapping;
pub mod user_pages;
