"""A controller's API, as the command line asks it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from limosa.cli.rest import RECONNECT_SECONDS, Rest
from limosa.cli.transport import Way
from limosa.errors import ControllerUnreachable
from limosa.wire.doctor import FleetDiagnosis
from limosa.wire.fleet import (
    Fit,
    FleetGuest,
    FleetHost,
    GuestRules,
    HostSettings,
    Operation,
    OperationAsked,
    StateAsked,
)
from limosa.wire.history import MoveLog, MoveRecord, PastMove, Week
from limosa.wire.hooks import HookShown, HookTried

T = TypeVar("T")

PLAN_SECONDS = 300.0
"""Large fleets take their time to plan."""
PAGE = 500
"""Items asked for at once; the most that a controller gives."""
PATIENCE_SECONDS = 90.0
"""For so long a watched controller may be away: it is restarted, or another one takes over after its lease."""


class _Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and what to ask with for more."""

    items: tuple[T, ...]
    next: str | None


class FleetClient:
    """One controller's API. Raises the errors that it sent, and ControllerUnreachable where it does not answer.

    What it begins carries a key of this client's own, so that a request whose answer was lost is repeated without harm.
    """

    def __init__(self, way: Way) -> None:
        self._rest = Rest(way)
        self._key = secrets.token_hex(16)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rest.close()

    def hosts(self) -> tuple[FleetHost, ...]:
        """Every host."""
        return tuple(self._all("/v1/hosts", _Page[FleetHost]))

    def host(self, name: str) -> FleetHost:
        """One host. Raises NotFound."""
        return self._rest.get(_path("hosts", name), FleetHost)

    def guests(self, host: str | None = None) -> tuple[FleetGuest, ...]:
        """Every guest, or those of one host."""
        return tuple(self._all("/v1/guests", _Page[FleetGuest], {} if host is None else {"host": host}))

    def guest(self, guest: str) -> FleetGuest:
        """One guest, by id, or by a name that only one has. Raises NotFound."""
        return self._rest.get(_path("guests", guest), FleetGuest)

    def fits(self, guest: str) -> tuple[Fit, ...]:
        """For each other host whether a guest could go there."""
        return self._rest.get(_path("guests", guest, "fits"), tuple[Fit, ...])

    def set_state(self, host: str, asked: StateAsked) -> FleetHost:
        """What a host is used for from now on."""
        return self._rest.put(_path("hosts", host, "state"), asked, FleetHost)

    def set_settings(self, host: str, settings: HostSettings) -> FleetHost:
        """Replace all that is said of a host."""
        return self._rest.put(_path("hosts", host, "settings"), settings, FleetHost)

    def set_rules(self, guest: str, rules: GuestRules) -> FleetGuest:
        """Replace all that is said of a guest."""
        return self._rest.put(_path("guests", guest, "rules"), rules, FleetGuest)

    def doctor(self) -> FleetDiagnosis:
        """What is wrong in the fleet."""
        return self._rest.get("/v1/doctor", FleetDiagnosis)

    def hooks(self) -> tuple[HookShown, ...]:
        """The controllers' hooks."""
        return self._rest.get("/v1/hooks", tuple[HookShown, ...])

    def test_hooks(self, hook: str, seconds: float) -> tuple[HookTried, ...]:
        """Send a test event to one hook, or to all; an answer may take so many seconds."""
        return self._rest.post("/v1/hooks/test", {"hook": hook}, tuple[HookTried, ...], seconds=seconds)

    # -- moves ------------------------------------------------------------------------------------------------

    def record(self, move: str) -> MoveRecord:
        """One move over its time, in flight or finished. Raises NotFound."""
        return self._rest.get(_path("moves", move), MoveRecord)

    def log(self, move: str) -> MoveLog:
        """What both hosts logged of a move. Raises NotFound."""
        return self._rest.get(_path("moves", move, "log"), MoveLog)

    def past(self, **wanted: str) -> Iterator[PastMove]:
        """Finished moves, latest first, as the query of /v1/history chooses them."""
        return self._all("/v1/history", _Page[PastMove], wanted)

    def week(self, name: str) -> Week:
        """The moves of a week, added up; empty for this week."""
        return self._rest.get(f"/v1/history/weeks?{urlencode({'last': '1', 'week': name})}", tuple[Week, ...])[0]

    # -- operations -------------------------------------------------------------------------------------------

    def plan(self, asked: OperationAsked) -> Operation:
        """What an operation would do; nothing is kept."""
        return self._rest.post("/v1/plans", asked, Operation, seconds=PLAN_SECONDS)

    def begin(self, asked: OperationAsked) -> Operation:
        """Plan an operation and keep it; where it is approved already, it runs."""
        try:
            return self._begin(asked)
        except ControllerUnreachable:
            # Whether it heard the request is not known; with the same key it begins nothing twice.
            return self._begin(asked)

    def _begin(self, asked: OperationAsked) -> Operation:
        return self._rest.post("/v1/operations", asked, Operation, seconds=PLAN_SECONDS, key=self._key)

    def operations(self) -> Iterator[Operation]:
        """Every operation, latest first; more of them are asked for as they are wanted."""
        return self._all("/v1/operations", _Page[Operation], {"limit": "50"})

    def operation(self, operation: str) -> Operation:
        """One operation as it stands. Raises NotFound."""
        return self._rest.get(_path("operations", operation), Operation)

    def approve(self, operation: str, why: str = "") -> Operation:
        """Let a planned operation run. Raises Blocked."""
        return self._steer(operation, "approve", why)

    def pause(self, operation: str, why: str = "") -> Operation:
        """Start no more of its moves. Raises Blocked."""
        return self._steer(operation, "pause", why)

    def resume(self, operation: str, why: str = "") -> Operation:
        """Go on after a pause. Raises Blocked."""
        return self._steer(operation, "resume", why)

    def cancel(self, operation: str, why: str = "") -> Operation:
        """End it; its moves that have not committed are rolled back. Raises Blocked."""
        return self._steer(operation, "cancel", why)

    def _steer(self, operation: str, deed: str, why: str) -> Operation:
        return self._rest.post(_path("operations", operation, deed), {"why": why}, Operation)

    def events(self, operation: str) -> Iterator[Operation]:
        """An operation at each change, as it is now first, its end last; watching never ends one.

        Raises:
            ControllerUnreachable: no controller has answered for PATIENCE_SECONDS.
        """
        return self._rest.followed(
            _path("operations", operation, "events"),
            Operation,
            now=lambda: self._patiently(operation),
            over=lambda told: told.phase.over,
        )

    def _patiently(self, operation: str) -> Operation:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.operation(operation)
            except ControllerUnreachable:
                if time.monotonic() > until:
                    raise
                time.sleep(RECONNECT_SECONDS)  # nothing announces that a controller is back

    def _all(self, path: str, page: type[_Page[T]], asked: dict[str, str] | None = None) -> Iterator[T]:
        query = {"limit": str(PAGE)} | (asked or {})
        while True:
            got = self._rest.get(f"{path}?{urlencode(query)}", page)
            yield from got.items
            if got.next is None:
                return
            query["after"] = got.next


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
