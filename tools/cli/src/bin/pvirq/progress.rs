// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far a benchmark is: a bar on a terminal, a line for each group elsewhere.

use std::{fmt, io::stderr};

use indicatif::{ProgressBar, ProgressStyle};
use pvirq_bench::Progress;

/// Shows progress on standard error.
pub enum Display {
    /// A bar.
    Bar(ProgressBar),
    /// A line for each group: how many there were, and how many there are.
    Lines(usize, usize),
}

impl Display {
    /// Shows the progress of so many groups.
    pub fn new(groups: usize) -> Self {
        // A serial console is a terminal as well, but has no size, and what is drawn on it ends in a log.
        if terminal_size::terminal_size_of(stderr()).is_none() {
            return Display::Lines(0, groups);
        }
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3} % [{elapsed_precise}] {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        Display::Bar(ProgressBar::new(0).with_style(style))
    }

    /// Says how many pieces all groups have together.
    pub fn set_pieces(&self, pieces: u32) {
        if let Display::Bar(bar) = self {
            bar.set_length(pieces.into());
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Display {
    fn group(&mut self, group: &dyn fmt::Display) {
        match self {
            Display::Bar(bar) => bar.set_message(group.to_string()),
            Display::Lines(done, groups) => {
                *done += 1;
                eprintln!("[{done}/{groups}] {group}");
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
