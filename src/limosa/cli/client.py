"""One agent's API, over any way to it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from limosa.cli.rest import ANSWER_SECONDS, Rest
from limosa.units import MoveId
from limosa.wire.doctor import Diagnosis
from limosa.wire.guests import GuestShown, Hello, HostShown, WebLink
from limosa.wire.history import HistoryPage, MoveLog, MoveRecord, PastMove, Week
from limosa.wire.moves import MoveRequest, MoveStatus, PlanShown

if TYPE_CHECKING:
    from limosa.cli.transport import Way
    from limosa.cpu.facts import HostCpu

PLAN_SECONDS = 300.0
"""A plan starts the real twin and reads two machines."""


class AgentClient:
    """One agent's API. Raises the errors that the agent sent, and AgentUnreachable where none answers."""

    def __init__(self, way: Way) -> None:
        self._rest = Rest(way)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and whatever carried it."""
        self._rest.close()

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS) -> bytes:
        """Any request of the agent's API; the answer's body."""
        return self._rest.ask(method, path, body, seconds=seconds)

    def hello(self) -> Hello:
        """What the agent says of itself."""
        return self._rest.get("/v1/hello", Hello)

    def web_link(self) -> WebLink:
        """A way in for a browser, good once."""
        return self._rest.post("/v1/web-link", None, WebLink)

    def guests(self) -> tuple[GuestShown, ...]:
        """The guests on the agent's host."""
        return self._rest.get("/v1/guests", tuple[GuestShown, ...])

    def profile(self, guest: str) -> bytes:
        """A guest's profile as JSON, by name, uuid or pid."""
        return self.ask("GET", f"/v1/guests/{quote(guest, safe='')}/profile")

    def hosts(self) -> tuple[HostShown, ...]:
        """The hosts the agent knows."""
        return self._rest.get("/v1/hosts", tuple[HostShown, ...])

    def cpu(self, host: str, *, machine: str = "", version: str = "", accel: str = "") -> HostCpu:
        """What a known host can give to guests; machine, version and accelerator are those of one guest."""
        from limosa.cpu.facts import HostCpu  # its table of flags is for those who ask

        meant = {"machine": machine, "version": version, "accel": accel}
        query = urlencode({key: value for key, value in meant.items() if value})
        return self._rest.get(f"/v1/hosts/{quote(host, safe='')}/cpu?{query}", HostCpu)

    def doctor(self, *, fix: bool) -> Diagnosis:
        """What is wrong on the hosts that the agent knows."""
        return self._rest.post("/v1/doctor/fix", None, Diagnosis) if fix else self._rest.get("/v1/doctor", Diagnosis)

    def resolve(self, guest: str, evidence: str) -> MoveStatus:
        """End a doubt on somebody's word; answers at once, the move then comes to rest."""
        path = f"/v1/guests/{quote(guest, safe='')}/resolve"
        return self._rest.post(path, {"evidence": evidence}, MoveStatus)

    def plan(self, request: MoveRequest) -> PlanShown:
        """Check and rehearse a move."""
        return self._rest.post("/v1/plan", request, PlanShown, seconds=PLAN_SECONDS)

    def start(self, request: MoveRequest) -> MoveStatus:
        """Start a move; answers at once."""
        return self._rest.post("/v1/moves", request, MoveStatus)

    def moves(self) -> tuple[MoveStatus, ...]:
        """The moves this agent drives or has driven."""
        return self._rest.get("/v1/moves", tuple[MoveStatus, ...])

    def move(self, move: str) -> MoveStatus:
        """One move as it stands."""
        return self._rest.get(_move(move), MoveStatus)

    def record(self, move: str) -> MoveRecord:
        """One move over its time."""
        return self._rest.get(_move(move, "record"), MoveRecord)

    def log(self, move: str) -> MoveLog:
        """What this host logged of a move."""
        return self._rest.get(_move(move, "log"), MoveLog)

    def past(self, **wanted: str) -> Iterator[PastMove]:
        """Finished moves, latest first, as the query of /v1/history chooses them."""
        after: str | None = ""
        while after is not None:
            page = self._rest.get(f"/v1/history?{urlencode({**wanted, 'limit': '500', 'after': after})}", HistoryPage)
            yield from page.items
            after = page.next

    def week(self, name: str) -> Week:
        """The moves of a week, added up; empty for this week."""
        return self._rest.get(f"/v1/history/weeks?{urlencode({'last': '1', 'week': name})}", tuple[Week, ...])[0]

    def abort(self, move: str) -> MoveStatus:
        """Abort a move. The answer comes when it is rolled back."""
        return self._rest.post(_move(move, "abort"), None, MoveStatus, seconds=PLAN_SECONDS)

    def ask_abort(self, move: str) -> None:
        """Ask for an abort, and leave its answer to the move's events."""
        self._rest.ask_aside("POST", _move(move, "abort"))

    def speed(self, move: str, bytes_per_second: int) -> MoveStatus:
        """Change a move's bandwidth; 0 lifts its cap."""
        return self._rest.post(_move(move, "speed"), {"bytes_per_second": bytes_per_second}, MoveStatus)

    def events(self, move: str) -> Iterator[MoveStatus]:
        """A move's status at each change, the present one first, the final one last; watching never ends a move."""
        return self._rest.followed(
            _move(move, "events"), MoveStatus, now=lambda: self.move(move), over=lambda status: status.state.over
        )


def _move(move: str, deed: str = "") -> str:
    return f"/v1/moves/{quote(MoveId(move), safe='')}" + (f"/{deed}" if deed else "")
