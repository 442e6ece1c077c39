// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A benchmark, and how it is run.
//!
//! Subjects, such as mechanisms on devices, are measured in turn, a short piece each, in an order that reverses every
//! time, so that other load on the host affects all of them alike. A machine is kept from piece to piece. If its guest
//! fails, a new one takes its place, see [`Session::retry`].

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use comfy_table::Table;
use serde_json::Value;
use vmm::error::Error;

use crate::{
    ground::Ground,
    row::count,
    session::{is_baseline, Session},
    table::{table, Column},
};

/// Takes note of how far a benchmark is.
pub trait Progress {
    /// A case begins.
    fn case(&mut self, case: &dyn fmt::Display);
    /// So many pieces are done, or not to be done.
    fn pieces(&mut self, pieces: u32);
    /// Shows a message.
    fn note(&mut self, text: &str);
}

/// What to measure now, and what belongs to it.
pub struct Piece<'a, B: Bench + ?Sized> {
    /// Where it is measured.
    pub session: &'a Session,
    /// The case.
    pub case: &'a B::Case,
    /// Its number among all cases.
    pub number: usize,
    /// The subject.
    pub subject: &'a B::Subject,
    /// How many pieces of this subject came before.
    pub round: u32,
    /// How often this piece has failed.
    pub failures: u32,
    /// The subject's machine.
    pub machine: &'a mut B::Machine,
    /// Where results are added.
    pub sum: &'a mut B::Sum,
    /// Shows a message.
    pub note: &'a mut dyn FnMut(&str),
}

/// What to do with the machine after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It serves the next piece.
    Keep,
    /// A new one does: an interrupt that is only late must not arrive in the next piece.
    Renew,
}

/// What was measured of a subject.
pub struct Measured<B: Bench + ?Sized> {
    /// The subject.
    pub subject: B::Subject,
    /// What its pieces add up to.
    pub sum: B::Sum,
    /// How often a CPU did what no CPU should.
    pub cpu_faults: u32,
}

/// Whether results are within the bounds that were asked for.
#[derive(Default)]
pub struct Verdict {
    /// Messages about them.
    pub lines: Vec<String>,
    /// Whether they are outside of the bounds.
    pub fails: bool,
}

/// A benchmark.
pub trait Bench {
    /// Subjects of the same case are measured in turn, and compared.
    type Case: fmt::Display;
    /// What is measured, such as a mechanism on a device.
    type Subject;
    /// A machine that is ready for pieces.
    type Machine;
    /// What pieces add up to.
    type Sum: Default;

    /// Whether machines are kept from case to case.
    const KEEPS_MACHINES: bool = false;

    /// The cases.
    fn cases(&self) -> Vec<Self::Case>;

    /// The subjects of a case. What the others are compared with comes first.
    fn subjects(&self, case: &Self::Case) -> Vec<Self::Subject>;

    /// The device of a subject.
    fn device<'a>(&'a self, subject: &'a Self::Subject) -> &'a Path;

    /// Whether guests that fail are not pvirq's fault.
    fn is_baseline(&self, subject: &Self::Subject) -> bool {
        is_baseline(self.device(subject))
    }

    /// The number of the machine that a subject uses, which several may share.
    fn machine(&self, subject: &Self::Subject, index: usize) -> usize {
        let _ = subject;
        index
    }

    /// The number of pieces of each subject.
    fn rounds(&self, case: &Self::Case) -> u32;

    /// Whether a case ends before that.
    fn is_over(&self, round: u32, elapsed: Duration, all: &[Measured<Self>]) -> bool {
        let _ = (round, elapsed, all);
        false
    }

    /// Makes a machine for the pieces of a subject. What happens once only is not part of any piece.
    fn boot(
        &self,
        session: &Session,
        case: &Self::Case,
        subject: &Self::Subject,
    ) -> Result<Self::Machine, Error>;

    /// Whether a machine that was kept serves a subject.
    fn is_usable(&self, machine: &Self::Machine, case: &Self::Case) -> bool {
        let _ = (machine, case);
        true
    }

    /// Measures a piece.
    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error>;

    /// The results, as `Documentation/benchmarks.rst` describes them.
    fn rows(&self, session: &Session, case: &Self::Case, all: &mut [Measured<Self>]) -> Vec<Value>;

    /// The columns of the table of results.
    fn columns(&self, ground: &Ground) -> Vec<Column>;

    /// The numbers of vCPUs that machines have.
    fn vcpus(&self) -> Vec<usize> {
        vec![2]
    }

    /// Interrupts that make the benchmark fail: those that were lost or came again.
    fn misdelivered(&self, row: &Value) -> u64 {
        ["lost", "duplicates", "twice"]
            .map(|name| count(row, name))
            .iter()
            .sum()
    }

    /// Compares the results with what was asked for.
    fn judge(&self, rows: &[Value]) -> Verdict {
        let _ = rows;
        Verdict::default()
    }
}

/// A case that could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{case}")]
pub struct Failed {
    case: String,
    #[source]
    source: Error,
}

/// What a benchmark has measured.
pub struct Outcome {
    /// The results.
    pub rows: Vec<Value>,
    /// The same as a table.
    pub table: Table,
    /// Interrupts that make the benchmark fail.
    pub misdelivered: u64,
    /// Whether results are within bounds.
    pub verdict: Verdict,
}

/// A benchmark of any kind.
pub trait AnyBench {
    /// The number of cases, and that of pieces.
    fn size(&self) -> (usize, u32);
    /// The numbers of vCPUs, and the devices in the order of the rows.
    fn machines(&self) -> (Vec<usize>, Vec<PathBuf>);
    /// Measures all cases.
    fn measure(
        &self,
        session: &mut Session,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, Failed>;
}

impl<B: Bench> AnyBench for B {
    fn size(&self) -> (usize, u32) {
        let cases = self.cases();
        let pieces = |case| self.rounds(case) * self.subjects(case).len() as u32;
        (cases.len(), cases.iter().map(pieces).sum())
    }

    fn machines(&self) -> (Vec<usize>, Vec<PathBuf>) {
        let mut devices: Vec<PathBuf> = Vec::new();
        for subject in self.cases().iter().flat_map(|case| self.subjects(case)) {
            let device = self.device(&subject);
            if !devices.iter().any(|other| other == device) {
                devices.push(device.to_owned());
            }
        }
        (self.vcpus(), devices)
    }

    fn measure(
        &self,
        session: &mut Session,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, Failed> {
        let mut machines = Vec::new();
        let mut rows = Vec::new();
        for (number, case) in self.cases().iter().enumerate() {
            progress.case(case);
            if !B::KEEPS_MACHINES {
                machines.clear();
            }
            let mut all = measure_case(self, session, number, case, &mut machines, progress)
                .map_err(|source| Failed {
                    case: case.to_string(),
                    source,
                })?;
            rows.extend(self.rows(session, case, &mut all));
        }
        Ok(Outcome {
            table: table(&self.columns(&session.ground), &rows),
            misdelivered: rows.iter().map(|row| self.misdelivered(row)).sum(),
            verdict: self.judge(&rows),
            rows,
        })
    }
}

/// Measures the subjects of a case in turn.
fn measure_case<B: Bench>(
    bench: &B,
    session: &mut Session,
    number: usize,
    case: &B::Case,
    machines: &mut Vec<Option<B::Machine>>,
    progress: &mut dyn Progress,
) -> Result<Vec<Measured<B>>, Error> {
    let mut all: Vec<Measured<B>> = bench
        .subjects(case)
        .into_iter()
        .map(|subject| Measured {
            subject,
            sum: B::Sum::default(),
            cpu_faults: 0,
        })
        .collect();
    let rounds = bench.rounds(case);
    let start = Instant::now();

    for round in 0..rounds {
        if bench.is_over(round, start.elapsed(), &all) {
            progress.pieces((rounds - round) * all.len() as u32);
            break;
        }
        for turn in 0..all.len() {
            let index = match round % 2 {
                0 => turn,
                _ => all.len() - 1 - turn,
            };
            let Measured {
                subject,
                sum,
                cpu_faults,
            } = &mut all[index];
            let place = bench.machine(subject, index);
            if machines.len() <= place {
                machines.resize_with(place + 1, || None);
            }
            let place = &mut machines[place];
            let what = format!("{}: {case}", bench.device(subject).display());
            let mut note = |text: &str| progress.note(text);
            let attempt = |session: &Session, failures, note: &mut dyn FnMut(&str)| {
                // After an error a machine is of no more use, and the old one goes before the new one comes.
                let kept = place
                    .take()
                    .filter(|machine| bench.is_usable(machine, case));
                let mut machine = match kept {
                    Some(machine) => machine,
                    None => bench.boot(session, case, subject)?,
                };
                let after = bench.run_piece(Piece {
                    session,
                    case,
                    number,
                    subject,
                    round,
                    failures,
                    machine: &mut machine,
                    sum: &mut *sum,
                    note,
                })?;
                *place = (after == After::Keep).then_some(machine);
                Ok(())
            };
            let ((), faults) =
                session.retry(bench.is_baseline(subject), &what, &mut note, attempt)?;
            *cpu_faults += faults;
            progress.pieces(1);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;

    /// Notes the order of pieces. The first piece of `b` fails by its CPU.
    struct Orders(RefCell<Vec<String>>);

    impl Bench for Orders {
        type Case = &'static str;
        type Subject = char;
        type Machine = u32;
        type Sum = u32;

        fn cases(&self) -> Vec<&'static str> {
            vec!["one", "two"]
        }

        fn subjects(&self, _: &&'static str) -> Vec<char> {
            vec!['a', 'b']
        }

        fn device<'a>(&'a self, _: &'a char) -> &'a Path {
            Path::new("/dev/none")
        }

        fn rounds(&self, _: &&'static str) -> u32 {
            5
        }

        fn is_over(&self, round: u32, _: Duration, all: &[Measured<Self>]) -> bool {
            assert_eq!(all[0].sum, round);
            round == 2
        }

        fn boot(&self, _: &Session, _: &&'static str, _: &char) -> Result<u32, Error> {
            Ok(0)
        }

        fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
            *piece.machine += 1;
            let text = format!("{} {}{}", piece.case, piece.subject, piece.machine);
            self.0.borrow_mut().push(text);
            if *piece.subject == 'b' && piece.failures == 0 && piece.round == 0 {
                let (status, console) = (mini_guest::STATUS_MASKED, String::new());
                return Err(Error::Ended { status, console });
            }
            *piece.sum += 1;
            Ok(After::Keep)
        }

        fn rows(&self, _: &Session, case: &&str, all: &mut [Measured<Self>]) -> Vec<Value> {
            let row = |one: &mut Measured<Self>| json!({"case": case, "faults": one.cpu_faults});
            all.iter_mut().map(row).collect()
        }

        fn columns(&self, _: &Ground) -> Vec<Column> {
            Vec::new()
        }
    }

    struct Quiet(u32);

    impl Progress for Quiet {
        fn case(&mut self, _: &dyn fmt::Display) {}

        fn pieces(&mut self, pieces: u32) {
            self.0 += pieces;
        }

        fn note(&mut self, _: &str) {}
    }

    #[test]
    fn pieces_are_measured_in_turn_on_machines_that_are_kept() {
        let bench = Orders(RefCell::default());
        let mut session = Session::new("0".parse().unwrap(), true);
        let mut progress = Quiet(0);
        let rows = bench.measure(&mut session, &mut progress).unwrap().rows;
        // The order reverses, what has failed gets a new machine, and each case has its own.
        let one = ["a1", "b1", "b1", "b2", "a2"];
        assert_eq!(bench.0.borrow()[..5], one.map(|text| format!("one {text}")));
        assert_eq!(bench.0.borrow()[5..], one.map(|text| format!("two {text}")));
        assert_eq!(rows.len(), 4);
        assert_eq!(
            (&rows[0]["faults"], &rows[1]["faults"]),
            (&json!(0), &json!(1))
        );
        assert_eq!((progress.0, bench.size()), (20, (2, 20)));
    }
}
