"""How a move has a guest in hand, for whoever asks about that guest meanwhile."""

from dataclasses import dataclass

from limosa.errors import LimosaError
from limosa.guest.profile import Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId


@dataclass(frozen=True, slots=True)
class Hold:
    """A guest that a move has in hand."""

    move: MoveId
    word: str
    """`planning`, `moving`, `arriving`, `settling` or `in doubt`."""
    monitor: Monitor | None
    """The monitor that the move holds; shared, so ask little."""
    profile: Profile | None
    """As the move read it."""
    doubt: LimosaError | None = None
