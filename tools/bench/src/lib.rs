// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Benchmarks: what interrupts cost on KVM's own device and on pvirq's.
//!
//! A benchmark is a [`bench::Bench`]: its cases, how a piece of one is measured, the row of results, and the columns of the
//! table. [`bench::AnyBench::measure`] runs any of them in a [`session::Session`].

pub mod bench;
mod clock;
pub mod environment;
pub mod frozen;
pub mod ground;
pub mod idle;
pub mod inject;
pub mod ipi;
pub mod plot;
pub mod poll;
pub mod report;
pub mod results;
mod row;
pub mod session;
mod summary;
pub mod survive;
mod table;
pub mod target;
