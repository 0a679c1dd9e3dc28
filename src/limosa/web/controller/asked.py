"""Forms and queries as what the API is asked: the same types, checked by the same rules."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from limosa.errors import UsageError
from limosa.wire.fleet import Item, OperationAsked

T = TypeVar("T")

LIMITS = ("moves_in", "moves_out", "moves", "retries")


def operation_asked(told: Mapping[str, str]) -> OperationAsked:
    """An operation out of a query or a form: `kind`, `hosts` (with commas), `guest` and `to`, `why`, limits.

    Raises:
        UsageError: it makes no sense.
    """
    asked: dict[str, Any] = {"kind": told.get("kind", ""), "why": told.get("why", "").strip()}
    asked["hosts"] = [host for each in told.get("hosts", "").split(",") if (host := each.strip())]
    if guest := told.get("guest"):
        asked["moves"] = [{"guest": guest, "to": told.get("to", "")}]
    asked["limits"] = {name: told[name].strip() for name in LIMITS if told.get(name, "").strip()}
    return checked(asked, OperationAsked)


def checked(told: Any, kind: type[T]) -> T:
    """What was told, as the API's own type. Raises UsageError."""
    try:
        return msgspec.convert(told, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"what was asked makes no sense: {error}", remedy="go back, and fill the form again"
        ) from error


def plan_mark(items: tuple[Item, ...]) -> str:
    """Names a plan by its moves: equal marks, equal plans."""
    told = [(item.guest, item.source, item.destination, item.after) for item in items]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:24]
