// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files of results, which are replaced or left alone, but never half written.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

/// The schema of all results.
pub const SCHEMA: &str = "pvirq-bench/1";

/// Writes a report as JSON: into a file aside, which then takes the place of `path`.
pub fn write(report: &impl Serialize, path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".partial");
    let aside = PathBuf::from(aside);
    let mut file = File::create(&aside)?;
    let written = serde_json::to_writer_pretty(&mut file, report)
        .map_err(io::Error::from)
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Adds a report's rows to those of the report in `path`, which must have been made on the same machine; if there is none,
/// [writes](write()) it.
pub fn append(report: &impl Serialize, path: &Path) -> io::Result<()> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return write(report, path),
        text => text?,
    };
    let mut whole: Value = serde_json::from_slice(&text)?;
    let mut more = serde_json::to_value(report)?;

    for place in [
        "/schema",
        "/environment/kernel",
        "/environment/ground",
        "/environment/vendor",
        "/environment/apicv",
    ] {
        if whole.pointer(place) != more.pointer(place) {
            return Err(invalid("its results are from another machine"));
        }
    }
    for counter in ["baseline_runs", "baseline_failures", "cpu_faults"] {
        let counter = format!("/environment/{counter}");
        let count = |value: &Value| value.pointer(&counter)?.as_u64();
        let sum = count(&whole).zip(count(&more)).map(|(old, new)| old + new);
        let (place, sum) = whole
            .pointer_mut(&counter)
            .zip(sum)
            .ok_or_else(|| invalid("it has no counts"))?;
        *place = sum.into();
    }
    let rows = |value: &mut Value| match value.get_mut("rows").map(Value::take) {
        Some(Value::Array(rows)) => Ok(rows),
        _ => Err(invalid("it has no rows")),
    };
    let mut all = rows(&mut whole)?;
    all.extend(rows(&mut more)?);
    whole["rows"] = Value::Array(all);
    write(&whole, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(kernel: &str) -> Value {
        let environment = json!({
            "kernel": kernel, "ground": "bochs", "vendor": null, "apicv": true,
            "baseline_runs": 7, "baseline_failures": 0, "cpu_faults": 1,
        });
        json!({"schema": SCHEMA, "environment": environment, "rows": [1, 2, 3]})
    }

    #[test]
    fn rows_are_added_to_those_of_the_same_machine() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ipi.json");
        for times in 1..=2 {
            append(&report("7.3"), &path)?;
            let json: Value = serde_json::from_slice(&fs::read(&path)?)?;
            assert_eq!(json["rows"].as_array().map(Vec::len), Some(3 * times));
            assert_eq!(json["environment"]["baseline_runs"], 7 * times);
        }

        let before = fs::read(&path)?;
        assert!(append(&report("another"), &path).is_err());
        assert_eq!(fs::read(&path)?, before);
        for text in ["{}", "[]", "", "{\"schema\": 1}"] {
            fs::write(&path, text)?;
            assert!(append(&report("7.3"), &path).is_err(), "{text}");
            assert_eq!(fs::read(&path)?, text.as_bytes());
        }
        Ok(())
    }

    #[test]
    fn a_report_replaces_the_last_one_or_leaves_it() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ipi.json");
        fs::write(&path, "old")?;
        write(&report("7.3"), &path)?;
        let json: Value = serde_json::from_slice(&fs::read(&path)?)?;
        assert_eq!(json, report("7.3"));

        assert!(write(&report("7.3"), &directory.path().join("none/ipi.json")).is_err());
        // A directory cannot be replaced by a file.
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied)?;
        assert!(write(&report("7.3"), &occupied).is_err());
        assert_eq!(fs::read_dir(directory.path())?.count(), 2);
        Ok(())
    }
}
