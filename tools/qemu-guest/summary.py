# SPDX-License-Identifier: GPL-2.0
"""Medians and tables of what measure.py has measured."""

import statistics

# An IPI costs these: the access that sends it, a multicast's hypercalls, and the sleep from which it wakes its target.
# Under TCG an operation takes long, and meets timers, whose exits are none of these.
IPI_REASONS = ("icr", "pv-ipi", "pv-yield", "hlt")

# Those of the IPI's sender, which is on vCPU 0 where there is only one.
SENDER_REASONS = ("icr", "pv-ipi", "pv-yield")


def total(run, reasons=None, vcpus=None):
    """Exits per operation, for these reasons and at these vCPUs; for all if nothing is said."""
    return sum(count for vcpu, exits in run["exits_per_operation"].items() if vcpus is None or vcpu in vcpus
               for reason, count in exits.items() if reasons is None or reason in reasons)


def median(values):
    return round(statistics.median(values), 3)


def ratio(runs, baseline, value):
    """Quartiles of a mode's value by that of the default in the same round; None if there is no such pair."""
    ratios = [value(run) / value(baseline[number]) for number, run in runs.items() if number in baseline]
    if not ratios:
        return None
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {name: round(number, 3) for name, number in zip(("lower", "median", "upper"), quartiles)}


def summary(by_mode):
    """A load's medians by mode. `by_mode` has the runs of each mode by the number of their round."""
    rows = {}
    for mode, runs in by_mode.items():
        if not runs:
            continue
        values, baseline = list(runs.values()), by_mode.get("default", {})
        reasons = sorted({reason for run in values for by_reason in run["exits_per_operation"].values()
                          for reason in by_reason})
        rows[mode] = {
            "rounds": len(runs),
            "operations_per_second": median(run["operations_per_second"] for run in values),
            "speed": ratio(runs, baseline, lambda run: run["operations_per_second"]),
            "cycles": ratio(runs, baseline, lambda run: run["cycles_per_operation"]),
            "cpu": ratio(runs, baseline, lambda run: run["ns_per_operation"]["cpu"]),
            "cycles_per_operation": median(run["cycles_per_operation"] for run in values),
            "exits_per_operation": {reason: median(total(run, {reason}) for run in values) for reason in reasons},
            "sender_exits_per_operation": median(total(run, SENDER_REASONS, {"0"}) for run in values),
            "ipi_exits_per_operation": median(total(run, IPI_REASONS) for run in values),
            "all_exits_per_operation": median(total(run) for run in values),
            "ns_per_operation": {
                name: None if name == "guest_polled" and mode == "idle-poll" else
                median(run["ns_per_operation"][name] for run in values)
                for name in ("cpu", "host_polled", "guest_polled")
            },
        }
        if all("instructions_per_operation" in run for run in values):
            rows[mode]["instructions_per_operation"] = rows[mode]["cycles_per_operation"]
    return rows


def show(rows, sent, idle):
    """Prints a table: a line for each load and mode."""
    print(f"{'load':<18} {'mode':<9} {'rounds':>6} {'µs/op':>9} {'speed, quartiles':>17}"
          f"   {'sender':>6} {'IPI':>6} {'all':>6}   {'CPU µs':>9} {'by default':>10} {'host':>5} {'guest':>5}")
    for load, by_mode in rows.items():
        for mode, row in by_mode.items():
            time = row["ns_per_operation"]
            shares = [f"{100 * time[name] / time['cpu']:.0f} %" if time[name] is not None and time["cpu"] else "-"
                      for name in ("host_polled", "guest_polled")]
            speed = "{lower:.2f} {median:.2f} {upper:.2f}".format(**row["speed"]) if row["speed"] else "-"
            cpu = f"{row['cpu']['median']:.2f}" if row["cpu"] else "-"
            print(f"{load:<18} {mode:<9} {row['rounds']:>6} {1e6 / row['operations_per_second']:>9.2f} {speed:>17}"
                  f"   {row['sender_exits_per_operation']:>6.2f} {row['ipi_exits_per_operation']:>6.2f}"
                  f" {row['all_exits_per_operation']:>6.2f}   {time['cpu'] / 1000:>9.2f} {cpu:>10}"
                  f" {shares[0]:>5} {shares[1]:>5}")
    print("CPU is that of all vCPUs in the host; host and guest say how much of it was polling there.")
    for load in rows:
        for what, counts in (("sent", sent[load]), ("idle", idle[load])):
            if any(counts.values()):
                print(f"{load}: {what}: " + ", ".join(f"{name} {value}" for name, value in counts.items() if value))
