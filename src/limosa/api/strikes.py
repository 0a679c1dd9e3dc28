"""Wrong tokens, counted for each address that sends them.

A token is 256 random bits: nobody finds one by trying. What is limited is the noise, and it is logged, because whoever
tries has lost a token or means harm. A right token is never refused for the wrong ones that came from its address,
or a forgotten script behind the same router would lock the operators out.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

ALLOWED = 20
"""Wrong tokens from one address in one WINDOW that are answered as what they are."""
WINDOW = 60.0
"""Seconds."""
ADDRESSES = 10_000
"""Addresses that are remembered; beyond, the longest-known one is forgotten."""


@dataclass(slots=True)
class _Counted:
    since: float
    wrong: int = 0


@dataclass(slots=True)
class Strikes:
    """How many wrong tokens came from where."""

    _counted: OrderedDict[str, _Counted] = field(default_factory=OrderedDict)

    def strike(self, address: str, now: float) -> int:
        """Count one more wrong token; how many came from this address in this window, the new one included."""
        counted = self._counted.get(address)
        if counted is None or now - counted.since >= WINDOW:
            self._counted.pop(address, None)
            counted = self._counted[address] = _Counted(now)
            if len(self._counted) > ADDRESSES:
                self._counted.popitem(last=False)
        counted.wrong += 1
        return counted.wrong

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address's window is over; 0 where none is open."""
        counted = self._counted.get(address)
        return 0.0 if counted is None else max(0.0, counted.since + WINDOW - now)
