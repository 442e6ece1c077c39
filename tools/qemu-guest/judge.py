# SPDX-License-Identifier: GPL-2.0
"""Whether a guest has survived a step of survive.py, and what all rounds say together."""

import math
import statistics

from progress import longest, rates, registered_after, runs

# How much slower operations may be afterwards.
SLOWER = 0.05


def judge(step, lines, begun, resumed, rates_before, reports, pvirq, limits):
    """What a step has done to a guest, from its lines: those before `begun` are before the step.

    `limits` has two, in seconds of the guest's time: an operation that takes longer than `stalled` counts as lost, and
    within `registered` posts have to be elided again on a host that has pvirq.
    """
    before, after = lines[:begun], lines[resumed if step.goes_back else begun:]
    resumed_lines = lines[resumed:]
    first = resumed_lines[0]
    # The time of the step's end, by the last line before it if that is of the same clock.
    last = lines[resumed - 1].now if resumed and not step.goes_back else first.now
    start = min(last, first.now)
    registered = registered_after(resumed_lines, before[-1].registrations if before else -1) if pvirq else None
    rates_after = rates(resumed_lines, since=start + limits.registered)
    took, load = longest(after)
    settled = longest([line for line in runs(resumed_lines) if line.began >= start + limits.registered])
    result = {
        "guest_seconds": round(resumed_lines[-1].now - start, 2),
        "operations": sum(line.done for line in runs(resumed_lines)),
        "longest_ms": round(1000 * took, 1), "longest_load": load,
        "longest_settled_ms": round(1000 * settled[0], 1),
        "longest_before_ms": round(1000 * longest(before)[0], 1),
        "registered_ms": None if registered is None else round(1000 * (registered.now - start)),
        "rates_before": rounded(rates_before), "rates_after": rounded(rates_after),
        "ratios": rounded({load: rate / rates_before[load] for load, rate in rates_after.items() if load in rates_before}),
        "reports": reports,
    }
    if resumed_lines[-1].registered >= 0:
        result["registered"] = resumed_lines[-1].registered == 1
    result["failures"] = failures(result, [line for line in after if line.state == "failed"], pvirq, limits)
    return result


def failures(result, failed, pvirq, limits):
    """What was wrong, as a list of sentences."""
    found = [f"{line.load} has failed" for line in failed]
    if not result["operations"]:
        found.append("the loads do not go on")
    if result["longest_ms"] > 1000 * limits.stalled:
        found.append(f"an operation of {result['longest_load']} has taken {result['longest_ms']:.0f} ms")
    if pvirq and result["registered_ms"] is None:
        found.append("posts are not elided again")
    elif pvirq and result["registered_ms"] > 1000 * limits.registered:
        found.append(f"posts are elided again after {result['registered_ms']} ms")
    if pvirq and not result.get("registered", True):
        found.append("the host does not have the descriptors")
    missing = sorted(set(result["rates_before"]) - set(result["rates_after"]))
    if missing:
        found.append("no run of " + ", ".join(missing) + " afterwards")
    return found + [f"the kernel reports: {line}" for line in result["reports"]]


def rounded(values):
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def interval(values):
    """The interval that has the median with 95 % confidence, by the binomial distribution; None if they are too few."""
    ordered, count = sorted(values), len(values)
    tail = 0.0
    for skipped in range(count // 2):
        tail += math.comb(count, skipped) / 2 ** count
        if tail > 0.025:
            return (ordered[skipped - 1], ordered[-skipped]) if skipped else None
    return None


def summary(step, rounds):
    """The rounds of a step together."""
    judged = [round_ for round_ in rounds if "longest_ms" in round_]
    result = {"rounds": len(rounds), "failed": sum(bool(round_["failures"]) for round_ in rounds)}
    if judged:
        result |= {name: spread([round_[name] for round_ in judged if round_[name] is not None])
                   for name in ("longest_ms", "longest_settled_ms", "longest_before_ms", "registered_ms")}
    result["ratios"] = {}
    for load in sorted({load for round_ in judged for load in round_["ratios"]}):
        values = [round_["ratios"][load] for round_ in judged if load in round_["ratios"]]
        limits = interval(values)
        median = statistics.median(values)
        result["ratios"][load] = {
            "median": round(median, 3), "interval": limits and [round(limit, 3) for limit in limits],
            "as_fast": verdict(median, limits) if step.compares else None,
        }
    return result


def verdict(median, limits):
    """Whether operations are as fast as before: `no` only if all of the interval is below."""
    if median >= 1 - SLOWER:
        return "yes"
    return "no" if limits and limits[1] < 1 - SLOWER else "unclear"


def spread(values):
    """Median and maximum."""
    return {"median": statistics.median(values), "max": max(values)} if values else None


def passed(result):
    """Whether all rounds of a step were good, and no load is slower."""
    return not result["failed"] and all(ratio["as_fast"] != "no" for ratio in result["ratios"].values())
