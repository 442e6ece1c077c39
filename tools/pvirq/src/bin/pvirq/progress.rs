// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far a benchmark is: a bar on a terminal, a line for each case elsewhere.

use std::io::stderr;

use indicatif::{ProgressBar, ProgressStyle};
use pvirq::bench::{Case, Progress};

/// Shows progress on standard error.
pub enum Display {
    /// A bar.
    Bar(ProgressBar),
    /// A line for each case: how many there were, and how many there are.
    Lines(usize, usize),
}

impl Display {
    /// Shows the progress of `cases` cases, which have `pieces` pieces together.
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

    /// Takes the bar away.
    pub fn finish(self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Display {
    fn case(&mut self, case: &Case) {
        match self {
            Display::Bar(bar) => bar.set_message(case.to_string()),
            Display::Lines(done, cases) => {
                *done += 1;
                eprintln!("[{done}/{cases}] {case}");
            }
        }
    }

    fn piece(&mut self) {
        if let Display::Bar(bar) = self {
            bar.inc(1);
        }
    }

    fn note(&mut self, text: &str) {
        match self {
            Display::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Display::Lines(..) => eprintln!("{text}"),
        }
    }
}
