# SPDX-License-Identifier: GPL-2.0
"""Tests of what the programs of this directory work out, on any machine: python3 -m unittest discover tools/qemu-guest"""

import argparse
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import environment
import measure
from cost import cost
from summary import summary


class Environment(unittest.TestCase):
    def test_placement(self):
        self.assertEqual(environment.placement("0,2"), [0, 2])
        with mock.patch("os.sched_getaffinity", return_value={0, 1, 2}):
            for ground, placement in (("qemu-tcg", [2]), ("bochs", [0, 1, 2]), (None, [2])):
                with mock.patch.object(environment, "ground", return_value={"ground": ground}):
                    self.assertEqual(environment.placement("auto"), placement)

    def test_results_are_appended(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "results" / "file.json"
            environment.append_json(path, 1)
            environment.append_json(path, 2)
            self.assertEqual(json.loads(path.read_text()), [1, 2])

    def test_a_file_that_is_missing_is_refused(self):
        self.assertEqual(environment.existing(__file__), Path(__file__))
        with self.assertRaisesRegex(argparse.ArgumentTypeError, "make guest guest-perf"):
            environment.existing("/there/is/none")


class Cost(unittest.TestCase):
    before = {"cpu": 1000, "host_polled": 100, "slept": 10}

    def cost(self, idle, **after):
        return cost(self.before, self.before | after, idle, 10)

    def test_halts_only(self):
        self.assertEqual(self.cost({}, cpu=3000, host_polled=600),
                         {"cpu": 200, "host_polled": 50, "guest_polled": 0})

    def test_haltpoll_has_a_state(self):
        self.assertEqual(self.cost({"POLL": 70, "haltpoll": 900})["guest_polled"], 7)

    def test_pvirq_polls_when_it_is_not_halted(self):
        self.assertEqual(self.cost({"pvirq": 500}, host_polled=200, slept=310)["guest_polled"], 10)
        self.assertEqual(self.cost({"pvirq": 100}, host_polled=200, slept=310)["guest_polled"], 0)


def run(speed, cpu=1.0):
    return {"operations_per_second": speed, "cycles_per_operation": 1 / speed,
            "exits_per_operation": {"0": {"icr": 1, "npf": 2}, "1": {"icr": 4, "hlt": 8}},
            "ns_per_operation": {"cpu": cpu, "host_polled": 0.0, "guest_polled": 0.5}}


class Summary(unittest.TestCase):
    def test_pairs_are_of_the_same_round(self):
        rows = summary({"default": {0: run(10), 1: run(20), 2: run(40)}, "pvirq": {1: run(60), 2: run(40), 3: run(1)}})
        self.assertEqual(rows["pvirq"]["speed"], {"lower": 1.5, "median": 2.0, "upper": 2.5})
        self.assertEqual(rows["pvirq"]["rounds"], 3)

    def test_without_a_pair_there_is_no_ratio(self):
        rows = summary({"default": {}, "haltpoll": {0: run(10)}})
        self.assertNotIn("default", rows)
        self.assertIsNone(rows["haltpoll"]["speed"])

    def test_exits(self):
        row = summary({"default": {0: run(10)}})["default"]
        self.assertEqual([row[f"{which}_exits_per_operation"] for which in ("sender", "ipi", "all")], [1, 13, 15])

    def test_idle_poll_keeps_no_count(self):
        self.assertIsNone(summary({"idle-poll": {0: run(10)}})["idle-poll"]["ns_per_operation"]["guest_polled"])


class Boots(unittest.TestCase):
    def test_every_mode_has_its_boot(self):
        self.assertEqual(sorted(mode for modes in measure.BOOTS for mode in modes), sorted(measure.MODES))

    def test_default_comes_before_the_module(self):
        self.assertIn(("default", "pvirq"), measure.BOOTS)

    def test_every_round_is_run_in_every_mode(self):
        ran = []
        args = mock.Mock(rounds=7, per_boot=3, loads=["futex"], modes=["default", "pvirq", "idle-poll"])
        with mock.patch.object(measure, "run_boot", lambda modes, rounds, *_: ran.extend(
                (mode, number) for mode in modes for number in rounds)):
            measure.measure(args)
        self.assertEqual(sorted(ran), sorted((mode, number) for mode in args.modes for number in range(7)))


if __name__ == "__main__":
    unittest.main()
