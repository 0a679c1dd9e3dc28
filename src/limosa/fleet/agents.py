"""What a controller needs of its agents: which there are, and calls to each. A simulation can give it too."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

from limosa.units import HostName

T = TypeVar("T")


class Link(Protocol):
    """Calls to one agent."""

    async def call(
        self, method: str, params: msgspec.Struct | None, result: type[T], *, timeout: float | None = None
    ) -> T:
        """Ask it; `timeout` in seconds.

        Raises:
            PeerError: it cannot be reached, or does not answer in time.
            LimosaError: it refuses.
        """


class Links(Protocol):
    """Calls to any agent."""

    async def link(self, host: HostName) -> Link:
        """The link to a host, opened or used again. Raises NotFound, PeerError."""

    async def close(self) -> None:
        """Close them all."""


class Known(Protocol):
    """The hosts to follow, as they are now."""

    def known(self) -> Mapping[HostName, object]:
        """By name."""


class Agents(Known, Links, Protocol):
    """Both."""
