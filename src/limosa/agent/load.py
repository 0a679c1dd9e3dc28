"""Processor time that guests take, from `/proc`."""

import os
from pathlib import Path

PROC = Path("/proc")
STEP = 0.1
"""Cores to which a load is rounded: noise is no news."""


class Loads:
    """Cores that processes keep busy between two looks."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._seen: dict[tuple[int, int], tuple[float, int]] = {}
        self._per_second = os.sysconf("SC_CLK_TCK")

    def look(self, pid: int, started: int, now: float) -> float | None:
        """Cores since the last look at this process; None at the first one.

        Args:
            pid: the process.
            started: its start, in clock ticks since boot: it tells it from another one with this pid.
            now: seconds, on a clock that only goes forward.
        """
        try:
            fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            self._seen.pop((pid, started), None)
            return None
        ticks = int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
        before = self._seen.get((pid, started))
        self._seen[pid, started] = now, ticks
        if before is None or now <= before[0]:
            return None
        cores = (ticks - before[1]) / self._per_second / (now - before[0])
        return round(round(cores / STEP) * STEP, 1)

    def keep(self, living: set[tuple[int, int]]) -> None:
        """Forget processes that are gone."""
        self._seen = {key: value for key, value in self._seen.items() if key in living}
