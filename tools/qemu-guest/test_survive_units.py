# SPDX-License-Identifier: GPL-2.0
"""Tests of what survive.py works out, on any machine: python3 -m unittest discover tools/qemu-guest"""

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import judge
from progress import Line, Progress, longest, rates, registered_after, runs
from scenarios import Step
from survivor import parse_cpus


def line(now, load="futex", state="ended", done=100, time=0.1, longest_=0.002, elided=0):
    return Line(0, now, load, state, done, time, longest_, elided, elided)


# A guest that works for ten seconds, with a run of each of two loads in each.
STEADY = [line(second + offset, load, elided=10 * second) for second in range(10)
          for offset, load in ((0.2, "futex"), (0.5, "pipe"))]


class Lines(unittest.TestCase):
    def test_parse(self):
        text = "@7 12500000000 ipi-single running 40 500000000 3000000 12 90 1 2;"
        self.assertEqual(Line.parse(text), Line(7, 12.5, "ipi-single", "running", 40, 0.5, 0.003, 12, 90, 1, 2))
        self.assertEqual(Line.parse(text).began, 12.0)

    def test_a_part_of_a_line_is_none(self):
        for text in ("12500000000 pipe ended 40 5 3 1 2 1 1;", "@7 1 pipe ended 40 5 3 1 2 1 1",
                     "@7 1 pipe gone 1 1 1 1 1 1 1;"):
            self.assertIsNone(Line.parse(text))

    def test_a_line_may_begin_in_one_file_and_end_in_the_next(self):
        with tempfile.TemporaryDirectory() as directory:
            first, second = Path(directory, "1"), Path(directory, "2")
            progress = Progress()
            first.write_text("@0 1 pipe ended 1 1 1 -1 -1 -1 -1;\n@1 2 pipe en")
            progress.follow(first)
            self.assertEqual(progress.poll(), 1)
            second.write_text("ded 1 1 1 -1 -1 -1 -1;\n")
            progress.follow(second, progress.partial)
            self.assertEqual(progress.poll(), 2)
            progress.close()

    def test_a_run_is_its_last_line(self):
        lines = [line(1, state="running", done=10, time=1), line(2, state="running", done=30, time=2), line(3, "pipe")]
        self.assertEqual(runs(lines), lines[1:])
        self.assertEqual(rates(lines), {"futex": 15, "pipe": 1000})

    def test_rates_leave_out_what_began_before(self):
        self.assertEqual(rates([line(1, time=0.5), line(2, time=0.2)], since=1.5), {"futex": 500})

    def test_longest(self):
        self.assertEqual(longest([line(1), line(2, "pipe", longest_=3)]), (3, "pipe"))
        self.assertEqual(longest([]), (0.0, None))

    def test_posting_works_if_posts_are_elided_or_there_is_a_new_registration(self):
        self.assertEqual(registered_after(STEADY, 0).now, 1.2)
        self.assertIsNone(registered_after(STEADY[-2:], 0))
        anew = replace(STEADY[-1], registered=1, registrations=3)
        self.assertIs(registered_after([STEADY[-2], anew], 2), anew)
        self.assertIsNone(registered_after([STEADY[-2], anew], 3))
        self.assertIsNone(registered_after([STEADY[-2], replace(anew, registered=0)], 2))

    def test_cpus(self):
        self.assertEqual(parse_cpus("0-2,5"), [0, 1, 2, 5])


class Judge(unittest.TestCase):
    def judge(self, lines, **changes):
        options = {"begun": 8, "resumed": 8, "rates_before": rates(lines[:8]), "reports": [], "pvirq": True,
                   "limits": SimpleNamespace(stalled=2, registered=2)} | changes
        return judge.judge(Step(None), lines, **options)

    def test_all_is_well(self):
        result = self.judge(STEADY)
        self.assertEqual(result["failures"], [])
        self.assertEqual(result["ratios"], {"futex": 1.0, "pipe": 1.0})
        self.assertLessEqual(result["registered_ms"], 2000)

    def test_a_stalled_operation(self):
        lines = STEADY + [line(13, state="running", done=3, time=3, longest_=2.5)]
        self.assertEqual(self.judge(lines)["failures"], ["an operation of futex has taken 2500 ms"])

    def test_one_that_was_before_is_not_the_steps(self):
        lines = [line(0, longest_=9), *STEADY]
        self.assertEqual(self.judge(lines)["failures"], [])

    def test_posts_that_are_not_elided_again(self):
        lines = STEADY[:8] + [line(entry.now, entry.load, elided=30) for entry in STEADY[8:]]
        self.assertIn("posts are not elided again", self.judge(lines)["failures"])
        self.assertEqual(self.judge(lines, pvirq=False)["failures"], [])

    def test_descriptors_that_are_lost_again(self):
        lines = STEADY[:-1] + [replace(STEADY[-1], registered=0, registrations=3)]
        self.assertEqual(self.judge(lines)["failures"], ["the host does not have the descriptors"])

    def test_a_load_that_is_not_run_any_more(self):
        lines = STEADY[:8] + [entry for entry in STEADY[8:] if entry.load == "pipe"]
        self.assertEqual(self.judge(lines)["failures"], ["no run of futex afterwards"])

    def test_reports_fail(self):
        self.assertEqual(len(self.judge(STEADY, reports=["rcu: INFO: …"])["failures"]), 1)


class Summary(unittest.TestCase):
    def rounds(self, *ratios):
        return [{"failures": [], "longest_ms": 1, "longest_settled_ms": 1, "longest_before_ms": 1, "registered_ms": None,
                 "ratios": {"pipe": ratio}} for ratio in ratios]

    def test_interval_of_the_median(self):
        self.assertIsNone(judge.interval([1, 2, 3, 4, 5]))
        self.assertEqual(judge.interval(range(1, 7)), (1, 6))
        self.assertEqual(judge.interval(range(1, 21)), (6, 15))

    def test_slower_fails_if_noise_does_not_explain_it(self):
        for ratios, as_fast, passed in (([0.96] * 9, "yes", True), ([0.9] * 9, "no", False),
                                        ([0.9, 0.8, 1.1], "unclear", True)):
            result = judge.summary(Step(None), self.rounds(*ratios))
            self.assertEqual(result["ratios"]["pipe"]["as_fast"], as_fast)
            self.assertEqual(judge.passed(result), passed)

    def test_what_is_not_compared_does_not_fail(self):
        self.assertTrue(judge.passed(judge.summary(Step(None, compares=False), self.rounds(*[0.5] * 9))))

    def test_a_failed_round_fails(self):
        self.assertFalse(judge.passed(judge.summary(Step(None), [*self.rounds(1.0), {"failures": ["the guest is gone"]}])))


if __name__ == "__main__":
    unittest.main()
