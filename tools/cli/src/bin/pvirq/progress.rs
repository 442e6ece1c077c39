// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far a benchmark is: a bar on a terminal, a line for each case elsewhere.

use std::{fmt, io::stderr};

use indicatif::{ProgressBar, ProgressStyle};
use pvirq_bench::bench::Progress;

/// Shows progress on standard error.
pub enum Display {
    /// A bar.
    Bar(ProgressBar),
    /// A line for each case: how many have begun, and how many there are.
    Lines(usize, usize),
}

impl Display {
    /// Shows the progress of so many cases, which have so many pieces together.
    pub fn new(cases: usize, pieces: u32) -> Self {
        // A serial console is a terminal as well, but has no size, and what is drawn on it ends in a log.
        if terminal_size::terminal_size_of(stderr()).is_none() {
            return Display::Lines(0, cases);
        }
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3} % [{elapsed_precise}] {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        Display::Bar(ProgressBar::new(pieces.into()).with_style(style))
    }

    /// Prints on standard output.
    pub fn print(&self, text: &dyn fmt::Display) {
        match self {
            Display::Bar(bar) => bar.suspend(|| println!("{text}")),
            Display::Lines(..) => println!("{text}"),
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Display {
    fn case(&mut self, case: &dyn fmt::Display) {
        match self {
            Display::Bar(bar) => bar.set_message(case.to_string()),
            Display::Lines(begun, cases) => {
                *begun += 1;
                eprintln!("[{begun}/{cases}] {case}");
            }
        }
    }

    fn pieces(&mut self, pieces: u32) {
        if let Display::Bar(bar) = self {
            bar.inc(pieces.into());
        }
    }

    fn note(&mut self, text: &str) {
        match self {
            Display::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Display::Lines(..) => eprintln!("{text}"),
        }
    }
}
