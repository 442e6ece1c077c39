# SPDX-License-Identifier: GPL-2.0
"""One round of some of survive.py's scenarios, as tests of test.py. One guest is taken through all of them."""

from types import SimpleNamespace

from ground import counts_instructions, ground
from guest import GuestError
from qmp import QmpError
from scenarios import SCENARIOS
from trial import Context, Trial

NAMES = ("migrate-file", "snapshot", "cpu", "reset")
# Where the clock counts instructions a scenario takes five minutes or more of a CPU.
EXACT_NAMES = ("migrate-file",)

# On a machine at work an operation may take seconds. What has been lost is not done at all, or waits for another
# interrupt each time, and posts that are not elided again never are.
LIMITS = {"baseline": 3, "settle": 8, "long": 8, "stalled": 10, "registered": 8}
# Where the clock counts instructions there is no other work, and a second takes half a minute.
EXACT_LIMITS = {"baseline": 1, "settle": 3, "long": 3, "stalled": 2, "registered": 2}


def is_exact():
    """Whether nothing but the guest's own work takes its time."""
    return counts_instructions(ground())


class Quick:
    """What test.py calls the guest of these tests. A context manager: the guest is gone at its end."""

    def __init__(self, args, device, vcpus):
        limits = EXACT_LIMITS if is_exact() else LIMITS
        self.device = device
        self._trial = Trial(SimpleNamespace(kernel=args.kernel, initrd=args.initrd, placement=args.placement, **limits),
                            device, vcpus)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._trial.__exit__()

    def boot(self):
        try:
            self._trial.boot()
        except QmpError as error:
            raise GuestError(str(error)) from None

    def autopsy(self):
        """See Guest.autopsy()."""
        guest = self._trial.survivor.guest
        return guest.autopsy() if guest else "there is no QEMU"

    def survive(self, name):
        """Takes the guest through a scenario. A failure of one of its steps leaves nothing to go on with."""
        for step in SCENARIOS[name]:
            try:
                result = self._trial.step(step, Context(self.device, False), self._trial.rates())
            except QmpError as error:
                raise GuestError(f"{step.name or name}: {error}") from None
            if result["failures"]:
                raise GuestError(f"{step.name or name}: " + "; ".join(result["failures"]))


TESTS = [(f"survives {name}", lambda quick, name=name: quick.survive(name))
         for name in (EXACT_NAMES if is_exact() else NAMES)]
