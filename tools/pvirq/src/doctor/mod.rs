// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a host has, and what that means for whoever wants to use pvirq on it.

mod facts;
mod findings;

pub use self::{
    facts::{Facts, Processor},
    findings::{diagnose, Finding, Mark},
};
