"""What a report is about, as `limosa report --json` prints it and as its pages are made from."""

import msgspec

from limosa.wire.fleet import Operation
from limosa.wire.history import Cause, Distribution, MoveLog, MoveRecord, PastMove, Week


class MoveDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One move."""

    record: MoveRecord
    log: MoveLog


class OperationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An operation and those of its moves of which something is known."""

    operation: Operation
    records: tuple[MoveRecord, ...]
    causes: tuple[Cause, ...]
    """How its finished moves ended, every attempt counted."""
    blackout_ms: Distribution | None


class WeekDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A week and its moves, latest first."""

    week: Week
    moves: tuple[PastMove, ...]


Document = MoveDocument | OperationDocument | WeekDocument
