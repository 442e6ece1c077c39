// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What polling saves and costs in each mode, from the rows of `pvirq bench poll`.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::{
    poll::{Distribution, Mode},
    results::SCHEMA,
};

/// Why there is nothing to draw.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not JSON.
    #[error("these are no results of pvirq bench")]
    Json(#[from] serde_json::Error),
    /// It lacks what results have.
    #[error("these are no results of pvirq bench")]
    Incomplete,
    /// It is of another schema.
    #[error("these are results of schema '{0}', not of '{SCHEMA}'")]
    Schema(String),
    /// There are no rows of `pvirq bench poll`, or none that can be compared.
    #[error("there is no row of pvirq bench poll that was compared with the mode '{}'", Mode::Halt.name())]
    Empty,
    /// A name that this version does not know.
    #[error("there is no {0} '{1}'")]
    Unknown(&'static str, String),
}

/// A mode at one interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dot {
    /// How intervals are distributed.
    pub distribution: Distribution,
    /// Their mean.
    pub interval: Duration,
    /// The mode.
    pub mode: Mode,
    /// Exits saved per wake-up.
    pub saved: f64,
    /// The CPU time of the idle vCPU, in percent.
    pub cpu: f64,
}

impl Dot {
    /// Whether it saves as much as another and burns as little, and is not the same.
    fn beats(&self, other: &Dot) -> bool {
        self.saved >= other.saved
            && self.cpu <= other.cpu
            && (self.saved, self.cpu) != (other.saved, other.cpu)
    }
}

/// What all modes save and burn.
#[derive(Clone, Debug)]
pub struct Frontier {
    /// What was measured.
    pub dots: Vec<Dot>,
    /// The host's kernel.
    pub kernel: String,
    /// What runs the host's CPUs.
    pub ground: String,
}

impl Frontier {
    /// Takes the rows of `pvirq bench poll` out of a file of results. Of rows for the same, the last counts.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        let file: Value = serde_json::from_slice(text)?;
        let schema = field(&file["schema"], Value::as_str)?;
        if schema != SCHEMA {
            return Err(Error::Schema(schema.into()));
        }
        let mut dots: Vec<Dot> = Vec::new();
        for row in field(&file["rows"], Value::as_array)? {
            if row["bench"] != "poll" {
                continue;
            }
            let (case, mode) = (
                field(&row["case"], Value::as_str)?,
                field(&row["mode"], Value::as_str)?,
            );
            let Some(saved) = row["saved_per_event"].as_f64() else {
                continue;
            };
            let cpu = |place: &str| field(&row["cpu_per_second"][place], Value::as_f64);
            let dot = Dot {
                distribution: find("distribution", case, &Distribution::ALL, Distribution::name)?,
                interval: Duration::from_nanos(field(&row["interval_ns"], Value::as_u64)?),
                mode: find("mode", mode, &Mode::ALL, Mode::name)?,
                cpu: (cpu("guest")? + cpu("host")?) * 100.0,
                saved,
            };
            let place = |dot: &Dot| (dot.distribution, dot.interval, dot.mode);
            dots.retain(|other| place(other) != place(&dot));
            dots.push(dot);
        }
        if dots.is_empty() {
            return Err(Error::Empty);
        }
        let environment = &file["environment"];
        let text = |name: &str| field(&environment[name], Value::as_str);
        Ok(Frontier {
            dots,
            kernel: text("kernel")?.into(),
            // Older files have no ground.
            ground: text("ground").or_else(|_| text("accel"))?.into(),
        })
    }

    /// The distributions that were measured.
    pub(super) fn distribution(&self) -> Vec<Distribution> {
        let all: BTreeSet<_> = self.dots.iter().map(|dot| dot.distribution).collect();
        all.into_iter().collect()
    }

    /// The intervals that were measured.
    pub(super) fn intervals(&self) -> Vec<Duration> {
        let all: BTreeSet<_> = self.dots.iter().map(|dot| dot.interval).collect();
        all.into_iter().collect()
    }

    /// The modes that were measured.
    pub(super) fn modes(&self) -> Vec<Mode> {
        let measured = |mode: &Mode| self.dots.iter().any(|dot| dot.mode == *mode);
        Mode::ALL.into_iter().filter(measured).collect()
    }

    /// The modes at one point, and those of them that none beats, in the order of the CPU time.
    pub(super) fn point(
        &self,
        distribution: Distribution,
        interval: Duration,
    ) -> (Vec<Dot>, Vec<Dot>) {
        let here = |dot: &&Dot| (dot.distribution, dot.interval) == (distribution, interval);
        let dots: Vec<Dot> = self.dots.iter().filter(here).copied().collect();
        let mut best: Vec<Dot> = dots
            .iter()
            .filter(|dot| !dots.iter().any(|other| other.beats(dot)))
            .copied()
            .collect();
        best.sort_by(|one, other| one.cpu.total_cmp(&other.cpu));
        (dots, best)
    }
}

fn field<'a, T>(value: &'a Value, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, Error> {
    read(value).ok_or(Error::Incomplete)
}

fn find<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T, Error> {
    all.iter()
        .copied()
        .find(|&one| name_of(one) == name)
        .ok_or_else(|| Error::Unknown(what, name.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub fn row(interval_ns: u64, mode: &str, saved: Option<f64>, guest: f64) -> serde_json::Value {
        json!({
            "bench": "poll", "case": "fixed", "interval_ns": interval_ns, "mode": mode,
            "saved_per_event": saved, "cpu_per_second": {"guest": guest, "host": 0.25},
        })
    }

    pub fn file(rows: serde_json::Value) -> Vec<u8> {
        let environment = json!({"kernel": "7", "accel": "tcg", "cpus": 2});
        json!({"schema": SCHEMA, "environment": environment, "rows": rows})
            .to_string()
            .into()
    }

    #[test]
    fn rows_become_dots_and_the_last_counts() -> Result<(), Error> {
        let rows = json!([
            {"bench": "ipi", "case": "unicast"},
            row(1000, "halt", Some(0.0), 0.5),
            row(1000, "guest-spin", Some(1.0), 0.5),
            row(1000, "guest-spin", Some(2.0), 0.25),
            row(1000, "kvm-halt-poll", None, 0.5),
        ]);
        let frontier = Frontier::from_json(&file(rows))?;
        assert_eq!(frontier.modes(), [Mode::Halt, Mode::GuestSpin]);
        assert_eq!((frontier.dots[1].saved, frontier.dots[1].cpu), (2.0, 50.0));
        Ok(())
    }

    #[test]
    fn what_is_beaten_is_not_on_the_frontier() -> Result<(), Error> {
        let rows = json!([
            row(1000, "halt", Some(0.0), 0.0),
            row(1000, "kvm-halt-poll", Some(0.0), 0.5),
            row(1000, "guest-spin", Some(2.0), 0.5),
            row(1000, "pvirq-halt-poll", Some(1.0), 0.25),
            row(2000, "guest-spin", Some(0.0), 0.5),
        ]);
        let frontier = Frontier::from_json(&file(rows))?;
        assert_eq!(frontier.intervals().len(), 2);
        let (dots, best) = frontier.point(Distribution::Fixed, Duration::from_micros(1));
        assert_eq!(dots.len(), 4);
        let names: Vec<_> = best.iter().map(|dot| dot.mode.name()).collect();
        assert_eq!(names, ["halt", "pvirq-halt-poll", "guest-spin"]);
        Ok(())
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let error = |text: &[u8]| Frontier::from_json(text).unwrap_err().to_string();
        assert!(error(b"x").contains("no results"));
        assert!(error(b"{}").contains("no results"));
        let other =
            br#"{"schema": "other/1", "environment": {"kernel": "", "accel": ""}, "rows": []}"#;
        assert!(error(other).contains("'other/1'"));
        assert!(error(&file(json!([]))).contains("no row"));
        assert!(error(&file(json!([row(1, "halt", None, 0.0)]))).contains("no row"));
        assert!(error(&file(json!([row(1, "new", Some(0.0), 0.0)]))).contains("no mode 'new'"));
        assert!(error(&file(json!([{"bench": "poll"}]))).contains("no results"));
    }
}
