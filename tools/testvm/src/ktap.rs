// SPDX-License-Identifier: GPL-2.0

//! Counts results in KTAP, the format of kselftests (Documentation/dev-tools/ktap.rst).

use std::fmt;

/// How many tests passed, failed and were skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// `ok` results, expected failures among them.
    pub passed: usize,
    /// `not ok` results, and tests of a plan that never reported.
    pub failed: usize,
    /// Results with a SKIP directive.
    pub skipped: usize,
}

impl Tally {
    /// Counts the results in a KTAP document.
    ///
    /// Where a test has subtests, those count and the test itself does not, so that a figure is one of things tried. A
    /// test whose subtests all passed and that failed all the same counts as one failure, and so does each test that a
    /// plan announced and that never came.
    pub fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut total = Self::default();
        // One open level per depth of nesting.
        let mut levels: Vec<Level> = Vec::new();

        for line in lines {
            let (depth, text) = unindent(line);
            if let Some(planned) = plan(text) {
                close(&mut levels, depth + 1, &mut total);
                open(&mut levels, depth);
                levels[depth].planned = Some(planned);
            } else if let Some(result) = Result::parse(text) {
                open(&mut levels, depth);
                let children = levels
                    .get(depth + 1)
                    .map(|level| level.results)
                    .unwrap_or_default();
                let failures = close(&mut levels, depth + 1, &mut total);
                let level = &mut levels[depth];
                level.results += 1;
                match result {
                    Result::Failed if failures == 0 => total.failed += 1,
                    Result::Failed => {}
                    Result::Passed if children == 0 => total.passed += 1,
                    Result::Skipped if children == 0 => total.skipped += 1,
                    Result::Passed | Result::Skipped => {}
                }
                level.failures += usize::from(result == Result::Failed);
            }
        }
        close(&mut levels, 0, &mut total);
        total
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The tests at one depth of nesting, up to the result of the test that they belong to.
#[derive(Default)]
struct Level {
    planned: Option<usize>,
    results: usize,
    failures: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Result {
    Passed,
    Failed,
    Skipped,
}

impl Result {
    /// Parses `ok 1 name` and `not ok 1 name`, with or without a directive.
    fn parse(text: &str) -> Option<Self> {
        let (failed, rest) = match text.strip_prefix("not ok ") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("ok ")?),
        };
        let number = rest.split_whitespace().next()?;
        number.parse::<u32>().ok()?;
        let directive = rest
            .split_once('#')
            .map(|(_, directive)| directive.trim().to_ascii_uppercase());
        let directive = directive.as_deref().unwrap_or_default();

        Some(if directive.starts_with("SKIP") {
            Self::Skipped
        } else if failed && !directive.starts_with("XFAIL") {
            Self::Failed
        } else {
            Self::Passed
        })
    }
}

/// Splits a line into its depth and its text. kselftest's runner indents by `# `, KUnit by four spaces.
fn unindent(line: &str) -> (usize, &str) {
    let mut depth = 0;
    let mut text = line;
    while let Some(rest) = text
        .strip_prefix("# ")
        .or_else(|| text.strip_prefix("    "))
    {
        depth += 1;
        text = rest;
    }
    (depth, text)
}

/// Parses the plan `1..N`.
fn plan(text: &str) -> Option<usize> {
    text.strip_prefix("1..")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn open(levels: &mut Vec<Level>, depth: usize) {
    while levels.len() <= depth {
        levels.push(Level::default());
    }
}

/// Ends the levels from `depth` on, counts what they announced and never reported, and returns their failures.
fn close(levels: &mut Vec<Level>, depth: usize, total: &mut Tally) -> usize {
    let mut failures = 0;
    while levels.len() > depth {
        if let Some(level) = levels.pop() {
            let missing = level.planned.unwrap_or(0).saturating_sub(level.results);
            total.failed += missing;
            failures += level.failures + missing;
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> (usize, usize, usize) {
        let tally = Tally::of(text.lines());
        (tally.passed, tally.failed, tally.skipped)
    }

    #[test]
    fn counts_subtests_instead_of_their_test() {
        let text = "TAP version 13\n1..2\n# TAP version 13\n# 1..2\n# ok 1 a\n# ok 2 b # SKIP no\n\
                    # # Totals: pass:1 fail:0\nok 1 selftests: x\nok 2 selftests: y\n";
        assert_eq!(tally(text), (2, 0, 1));
    }

    #[test]
    fn failed_subtest_counts_once() {
        assert_eq!(
            tally("1..1\n# 1..2\n# ok 1 a\n# not ok 2 b\nnot ok 1 x # exit=1\n"),
            (1, 1, 0)
        );
    }

    #[test]
    fn failure_without_a_failed_subtest_counts() {
        assert_eq!(
            tally("1..1\n# 1..1\n# ok 1 a\nnot ok 1 x # TIMEOUT 45 seconds\n"),
            (1, 1, 0)
        );
    }

    #[test]
    fn what_a_plan_announced_and_never_came_has_failed() {
        assert_eq!(tally("1..3\nok 1 a\n"), (1, 2, 0));
        assert_eq!(
            tally("1..1\n# 1..3\n# ok 1 a\nnot ok 1 x # exit=139\n"),
            (1, 2, 0)
        );
    }

    #[test]
    fn expected_failure_and_skip() {
        assert_eq!(
            tally("1..3\nnot ok 1 a # XFAIL known\nok 2 b # SKIP\nok 3 c\n"),
            (2, 0, 1)
        );
    }

    #[test]
    fn prose_does_not_count() {
        assert_eq!(tally("ok, done\nnot ok\n# ok then\nok go\n"), (0, 0, 0));
    }

    #[test]
    fn two_tests_with_subtests() {
        let text =
            "1..2\n# 1..1\n# ok 1 a\nok 1 x\n# 1..2\n# ok 1 a\n# not ok 2 b\nnot ok 2 y # exit=1\n";
        assert_eq!(tally(text), (2, 1, 0));
    }
}
