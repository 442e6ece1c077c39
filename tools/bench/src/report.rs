// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results, as JSON: schema `pvirq-bench/1`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use exit_count::exits::{Exits, Reason};
use mini_guest::{JobKind, Mechanism};
use pvirq_protocol::Tally;
use serde::Serialize;
use vmm::error::Error;

use super::{
    case::{Case, HaltPoll, Target},
    environment::Environment,
    measurement::Piece,
    options::Options,
    results::SCHEMA,
    session::{Baseline, Measured},
    summary::{median, Summary},
};

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// One for each case and device.
    pub rows: Vec<Row>,
    #[serde(skip)]
    options: Options,
}

/// A number for the sender, and one for the target or the sum of all targets.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sides<T> {
    /// The vCPU that sends.
    pub sender: T,
    /// The vCPUs that receive.
    pub target: T,
}

/// How a row compares with another, on the first device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Relative {
    /// The number of pairs of pieces that were measured one after the other.
    pub pairs: usize,
    /// Median over the pairs of the ratio of exits per event, without those that the host's timer caused: they come
    /// with time, not with events.
    pub exits_without_timer: f64,
    /// Median over the pairs of the ratio of median cycles; not a number if they were not measured.
    pub cycles: f64,
}

/// A case on a device.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The benchmark.
    pub bench: &'static str,
    /// Whom the sender sends to.
    pub case: &'static str,
    /// What targets do meanwhile.
    pub target: &'static str,
    /// How the sender sends.
    pub mechanism: &'static str,
    /// The device.
    pub device: PathBuf,
    /// The number of vCPUs.
    pub vcpus: usize,
    /// vCPUs on the CPU that has the most of them.
    pub overcommit: usize,
    /// KVM's halt_poll_ns, where targets halt; nothing if it is the host's default and cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt_poll_ns: Option<u64>,
    /// Interrupts, one for each target of each send; or exits.
    pub events: u64,
    /// Events that were acknowledged.
    pub delivered: u64,
    /// Events that were not.
    pub lost: u64,
    /// Interrupts that came again.
    pub duplicates: u64,
    /// What became of posts, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posts: Option<Posts>,
    /// How often the sender nevertheless made use of the platform's own ways, for one target or for several at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_sends: Option<u64>,
    /// Exits per event.
    pub exits_per_event: Sides<f64>,
    /// Exits per event, by reason.
    pub exits_by_reason: Sides<BTreeMap<&'static str, f64>>,
    /// Exits per event that the host's timer caused; part of those by `intr`.
    pub timer_exits_per_event: Sides<f64>,
    /// Cycles from the send to the sender's sight of the acknowledgement, as the guest measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles_per_event: Option<Summary>,
    /// Their median, where cycles are [instructions](crate::ground::Ground::counts_instructions).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_event: Option<u64>,
    /// Comparison with the first device, in the other devices' rows; of `pvirq`, with `x2apic` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<Relative>,
    /// The case, and the device's number.
    #[serde(skip)]
    pub(super) measured: (Case, usize),
}

/// What became of posts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Posts {
    /// The vector was pending already.
    pub coalesced: u64,
    /// The target was going to look by itself.
    pub elided: u64,
    /// The target had to be sent the interrupt the platform's way.
    pub kicked: u64,
}

impl Posts {
    /// Adds what became of others.
    pub(super) fn add(&mut self, tally: &Tally) {
        self.coalesced += tally.coalesced;
        self.elided += tally.elided;
        self.kicked += tally.kicked;
    }
}

impl From<Tally> for Posts {
    fn from(tally: Tally) -> Self {
        let Tally {
            coalesced,
            elided,
            kicked,
        } = tally;
        Posts {
            coalesced,
            elided,
            kicked,
        }
    }
}

impl Row {
    /// Whether as many exits are expected as on the first device: not by a mechanism that it does not have, and not if
    /// they depend on which of several targets happens to run on their CPU when it is interrupted.
    pub fn is_comparable(&self) -> bool {
        let (case, _) = &self.measured;
        case.kind != JobKind::Storm
            && !case.posts()
            && (self.overcommit == 1 || case.target == Target::Halted)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.measured.0.fmt(f)
    }
}

impl Measured {
    /// What to compare `one` with, of what was measured in turn with it.
    fn reference<'a>(one: &Self, all: &'a [Measured]) -> Option<&'a Measured> {
        let mechanism = match one.case.posts() {
            true => Mechanism::X2Apic,
            false if one.device == 0 => return None,
            false => one.case.mechanism,
        };
        all.iter()
            .find(|other| other.device == 0 && other.case.mechanism == mechanism)
    }
}

impl Report {
    /// Begins the report of a session with these options.
    pub fn new(options: Options, cases: &[Case]) -> Result<Self, Error> {
        let mut vcpus: Vec<_> = cases.iter().map(|case| case.vcpus).collect();
        vcpus.sort_unstable();
        vcpus.dedup();
        Ok(Report {
            schema: SCHEMA,
            environment: Environment::of(&options, vcpus)?,
            rows: Vec::new(),
            options,
        })
    }

    /// Adds what was measured for the cases of a group, case by case.
    ///
    /// What a device is compared with is the first device with the same mechanism. No guest of the plain device can use
    /// pvirq, so that is compared with the x2APIC there.
    pub fn add(&mut self, measured: &[Measured]) {
        for one in measured {
            let reference = Measured::reference(one, measured);
            let relative =
                reference.map(|other| relative(&one.measurement.pieces, &other.measurement.pieces));
            let row = self.row(one, relative);
            self.rows.push(row);
        }
    }

    fn row(&self, measured: &Measured, relative: Option<Relative>) -> Row {
        let Measured {
            case,
            device,
            measurement,
        } = measured;
        let events = measurement.events();
        let by_reason = |exits: &Exits| {
            Reason::ALL
                .map(|reason| (reason.name(), per_event(exits[reason], events)))
                .into_iter()
                .collect()
        };
        let (sender, target) = (measurement.sender, measurement.target);
        let cycles_per_event = Summary::of(&mut measurement.cycles.clone());
        Row {
            bench: case.bench(),
            case: case.name(),
            target: case.target.name(),
            mechanism: case.mechanism(),
            device: self.options.devices[*device].clone(),
            vcpus: case.vcpus,
            overcommit: self.options.overcommit(case),
            halt_poll_ns: match case.halt_poll {
                HaltPoll::Zero => Some(0),
                HaltPoll::Default if case.target.halts() => self.environment.halt_poll_ns,
                HaltPoll::Default => None,
            },
            events,
            delivered: measurement.delivered,
            lost: measurement.lost,
            duplicates: measurement.duplicates,
            posts: case.posts().then(|| measurement.posts.into()),
            native_sends: case.posts().then_some(measurement.native_sends),
            exits_per_event: Sides {
                sender: per_event(sender.total(), events),
                target: per_event(target.total(), events),
            },
            exits_by_reason: Sides {
                sender: by_reason(&sender),
                target: by_reason(&target),
            },
            timer_exits_per_event: Sides {
                sender: per_event(sender.timer, events),
                target: per_event(target.timer, events),
            },
            relative,
            instructions_per_event: cycles_per_event
                .map(|cycles| cycles.p50)
                .filter(|_| self.environment.ground.counts_instructions()),
            cycles_per_event,
            measured: (*case, *device),
        }
    }

    /// The rows of each case, one for each device that it was measured on.
    pub fn cases(&self) -> impl Iterator<Item = &[Row]> {
        self.rows
            .chunk_by(|one, other| one.measured.0 == other.measured.0)
    }

    /// Interrupts that were lost or came twice.
    pub fn misdelivered(&self) -> u64 {
        self.rows.iter().map(|row| row.lost + row.duplicates).sum()
    }

    /// Says how guests fared on KVM's own device, and how often a CPU did what none should.
    pub fn set_failures(&mut self, baseline: Baseline, cpu_faults: u32) {
        self.environment.baseline_runs = baseline.runs;
        self.environment.baseline_failures = baseline.failures;
        self.environment.cpu_faults = cpu_faults;
    }
}

pub(super) fn per_event(count: u64, events: u64) -> f64 {
    if events == 0 {
        return 0.0;
    }
    count as f64 / events as f64
}

fn relative(pieces: &[Piece], first: &[Piece]) -> Relative {
    let ratio = |of: fn(&Piece) -> f64| {
        let pairs = pieces.iter().zip(first);
        let mut ratios: Vec<f64> = pairs.map(|(piece, first)| of(piece) / of(first)).collect();
        // Nothing was delivered if there is no piece. That is no equality.
        (ratios.len(), median(&mut ratios).unwrap_or(f64::NAN))
    };
    let (pairs, exits_without_timer) = ratio(|piece| piece.exits);
    let (_, cycles) = ratio(|piece| piece.cycles);
    Relative {
        pairs,
        exits_without_timer,
        cycles,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{error::Error, fs};

    use serde_json::Value;

    use super::*;
    use crate::{exit_plan, ground::Ground, ipi_plan, results, Extent, Measurement};

    fn options() -> Options {
        Options {
            devices: ["/dev/kvm", "/dev/pvirq"].map(PathBuf::from).into(),
            cpus: "0-1".parse().unwrap(),
            pv_eoi: true,
            limit: None,
        }
    }

    pub fn measurement(exits: u64, timer: u64) -> Measurement {
        let mut measurement = Measurement {
            delivered: 100,
            cycles: (1..=100).collect(),
            ..Default::default()
        };
        (0..exits).for_each(|_| measurement.sender.count(Reason::Msr));
        (0..timer).for_each(|_| measurement.target.count(Reason::Intr));
        measurement.target.timer = timer;
        measurement.pieces = vec![Piece {
            exits: exits as f64 / 100.0,
            cycles: 50.0,
        }];
        measurement
    }

    fn report(first: Measurement, second: Measurement) -> Report {
        report_on(Ground::Hardware, first, second)
    }

    pub fn report_on(ground: Ground, first: Measurement, second: Measurement) -> Report {
        let plan = ipi_plan(&Extent {
            unicast: vec![2],
            ..Default::default()
        });
        let mut report = Report::new(options(), &plan).unwrap();
        report.environment.ground = ground;
        let measured = |case: usize, device, measurement: &Measurement| Measured {
            case: plan[case],
            device,
            measurement: measurement.clone(),
        };
        // Halted targets.
        report.add(&[
            measured(3, 0, &first),
            measured(3, 1, &second),
            measured(5, 1, &second),
        ]);
        report
    }

    #[test]
    fn rows_are_as_the_schema_says() -> Result<(), Box<dyn Error>> {
        let report = report(measurement(100, 20), measurement(150, 30));
        let json: Value = serde_json::from_str(&serde_json::to_string(&report)?)?;
        assert_eq!(json["schema"], "pvirq-bench/1");
        for key in ["kernel", "accel", "cpus", "vcpus"] {
            assert!(!json["environment"][key].is_null(), "{key}");
        }
        let row = &json["rows"][1];
        let expected = [
            ("bench", "ipi"),
            ("case", "unicast"),
            ("target", "halted"),
            ("mechanism", "x2apic"),
            ("device", "/dev/pvirq"),
        ];
        expected
            .iter()
            .for_each(|(key, value)| assert_eq!(row[key], *value));
        for (key, value) in [
            ("vcpus", 2),
            ("overcommit", 1),
            ("events", 100),
            ("delivered", 100),
            ("lost", 0),
        ] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(row["exits_per_event"]["sender"], 1.5);
        assert_eq!(row["exits_per_event"]["target"], 0.3);
        assert_eq!(row["exits_by_reason"]["sender"]["msr"], 1.5);
        for reason in ["msr", "hlt", "io", "intr"] {
            assert!(
                row["exits_by_reason"]["target"][reason].is_number(),
                "{reason}"
            );
        }
        assert_eq!(row["timer_exits_per_event"]["target"], 0.3);
        assert_eq!(row["cycles_per_event"]["p50"], 50);
        assert_eq!(row["cycles_per_event"]["p99"], 99);
        assert_eq!(row["cycles_per_event"]["mean"], 50.5);
        assert_eq!(row["relative"]["exits_without_timer"], 1.5);
        assert!(json["rows"][0]["relative"].is_null());
        assert!(row["posts"].is_null() && row["native_sends"].is_null());
        assert_eq!(report.cases().map(<[Row]>::len).collect::<Vec<_>>(), [2, 1]);
        Ok(())
    }

    #[test]
    fn rows_of_pvirq_have_posts_and_are_compared_with_the_plain_device() {
        let posted = Measurement {
            posts: Tally {
                coalesced: 1,
                elided: 2,
                kicked: 97,
            },
            native_sends: 97,
            ..measurement(50, 0)
        };
        let report = report(measurement(100, 0), posted);
        let row = serde_json::to_value(&report.rows[2]).unwrap();
        assert_eq!(
            (&row["mechanism"], &row["device"]),
            (&"pvirq".into(), &"/dev/pvirq".into())
        );
        for (key, value) in [("coalesced", 1), ("elided", 2), ("kicked", 97)] {
            assert_eq!(row["posts"][key], value, "{key}");
        }
        assert_eq!(row["native_sends"], 97);
        assert_eq!(row["relative"]["exits_without_timer"], 0.5);
        assert!(report.rows[1].is_comparable() && !report.rows[2].is_comparable());
    }

    #[test]
    fn what_delivered_nothing_is_equal_to_nothing() {
        let lost = Measurement {
            lost: 5,
            ..Default::default()
        };
        let report = report(measurement(1, 0), lost);
        assert_eq!(report.misdelivered(), 10);
        assert!(report.rows[1]
            .relative
            .unwrap()
            .exits_without_timer
            .is_nan());
        assert!(report.rows[1].cycles_per_event.is_none());
    }

    #[test]
    fn rows_are_added_to_those_of_the_same_machine() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ipi.json");
        let mut report = report(measurement(100, 20), measurement(150, 30));
        report.environment.baseline_runs = 7;
        for times in 1..=2 {
            results::append(&report, &path)?;
            let json: Value = serde_json::from_slice(&fs::read(&path)?)?;
            assert_eq!(json["rows"].as_array().map(Vec::len), Some(3 * times));
            assert_eq!(json["environment"]["baseline_runs"], 7 * times);
        }

        let before = fs::read(&path)?;
        report.environment.kernel = "another".into();
        assert!(results::append(&report, &path).is_err());
        assert_eq!(fs::read(&path)?, before);
        for text in ["{}", "[]", "", "{\"schema\": 1}"] {
            fs::write(&path, text)?;
            assert!(results::append(&report, &path).is_err(), "{text}");
            assert_eq!(fs::read(&path)?, text.as_bytes());
        }
        Ok(())
    }

    #[test]
    fn a_report_replaces_the_last_one_or_leaves_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipi.json");
        let report = Report::new(options(), &exit_plan()).unwrap();
        fs::write(&path, "old").unwrap();
        results::write(&report, &path).unwrap();
        let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["rows"], Value::Array(Vec::new()));

        assert!(results::write(&report, &directory.path().join("none/ipi.json")).is_err());
        // A directory cannot be replaced by a file.
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        assert!(results::write(&report, &occupied).is_err());
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
