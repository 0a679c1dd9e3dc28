"""An error as it crosses a process boundary."""

import msgspec

from limosa.units import Side


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every refusal and failure: the parts of a LimosaError."""

    code: str
    """Which error it is, by its name in the tree: `not-found`, `blocked`, `usage`."""
    what: str
    """What happened, in one sentence."""
    guest_runs: Side | None
    """Where the guest runs now; null where no guest is concerned."""
    remedy: str
    """What to do next."""
    detail: str
    """More for the log: QEMU's own words, for one."""
