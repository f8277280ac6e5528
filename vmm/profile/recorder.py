"""Profile: where a run's time goes, recorded while it runs: `--profile`."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ..kvm.vcpu import Vcpu
from ..vcpu.entry import Entry
from ..vcpu.run_loop import Bus
from .timeline import ConsoleTimeline, Mark
from .vcpu import Place, Tally, VcpuProfile

MAX_BOOTS: Final = 1000  # a guest must not make us grow, however often it boots


class Boot(NamedTuple):
    """From power-on to the end of one boot; its lines are lines[first:last]."""

    start: Mark
    end: Mark
    first_line: int
    last_line: int


class Profile:
    """All that is recorded of one run, in bounded memory.

    `power_on` and `power_off` frame each boot; `vcpu` gives what a run loop is to
    use; `console` is told every byte that the guest prints, under the UART's lock.
    To be read when the run is over.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.vcpus: dict[int, VcpuProfile] = {}
        self.boots: list[Boot] = []
        self.boots_left_out = 0
        self.timeline = ConsoleTimeline(now_ns, self._mark)
        self.console = self.timeline.feed
        self._now_ns = now_ns
        self._power_on: tuple[Mark, int] | None = None

    def power_on(self) -> None:
        """A boot begins; before its VM is made."""
        self._power_on = self._mark(), self.timeline.count

    def vcpu(self, vcpu: Vcpu, io_manager: Bus, entry: Entry) -> VcpuProfile:
        """What this vCPU's run loop is to have as its bus and as its entry."""
        known = VcpuProfile(vcpu.index, self._now_ns)
        profile = self.vcpus.setdefault(vcpu.index, known)
        profile.connect(vcpu.kvm_run, io_manager, entry)
        return profile

    def power_off(self) -> None:
        """The boot has ended, and every run loop. Idempotent."""
        for vcpu in self.vcpus.values():
            vcpu.disconnect()
        self.timeline.break_line()
        if self._power_on is None:
            return
        (start, first), self._power_on = self._power_on, None
        if len(self.boots) < MAX_BOOTS:
            self.boots.append(Boot(start, self._mark(), first, self.timeline.count))
        else:
            self.boots_left_out += 1

    def tallies(self) -> dict[Place, Tally]:
        """What was seen of each place, over all vCPUs and boots."""
        merged: dict[Place, Tally] = {}
        for vcpu in self.vcpus.values():
            for place, tally in vcpu.tallies().items():
                merged.setdefault(place, Tally()).add(tally)
        return merged

    def _mark(self) -> Mark:
        vcpus = self.vcpus.values()
        return Mark(
            self._now_ns(),
            sum(vcpu.entries for vcpu in vcpus),
            sum(vcpu.device_ns for vcpu in vcpus),
        )
