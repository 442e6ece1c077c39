// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Pictures of results: what polling saves against what it costs.
//!
//! [`Frontier`] is made of the rows of `pvirq bench poll`, and [`svg`] and [`png`] draw it. The font is inside the
//! program, so that it draws the same everywhere.

mod draw;
mod frontier;

pub use self::{
    draw::{png, svg, Drawn},
    frontier::{Dot, Error, Frontier},
};
