"""Errors as the API tells them: a status, and the same parts as everywhere (`LimosaError.to_wire`)."""

from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from limosa.errors import (
    Blocked,
    Fenced,
    Forbidden,
    LimosaError,
    NotFound,
    NoToken,
    PeerError,
    StateDiskError,
    TooManyTokens,
    UsageError,
)
from limosa.wire.failure import Told

_log = structlog.get_logger()
_STATUS: tuple[tuple[type[LimosaError], int], ...] = (
    (TooManyTokens, 429),
    (NoToken, 401),
    (Forbidden, 403),
    (UsageError, 422),
    (NotFound, 404),
    (Blocked, 409),
    (Fenced, 409),
    (StateDiskError, 503),
    (PeerError, 502),
)

_MEANS = {
    400: "It is not understood: no JSON, an unknown key or parameter, a value out of bounds",
    401: "There is no token, or nobody knows it",
    403: "The token's role does not allow it",
    404: "There is no such host, guest, operation, move, hook or token",
    409: "A check forbids it now; nothing was changed",
    413: "The body is larger than a mebibyte",
    415: "The body is not said to be JSON",
    422: "It is understood, and makes no sense as it stands: a drain that names no host",
    429: "Too many wrong tokens came from this address; Retry-After says how long to wait",
    502: "The agent that could tell does not answer",
    503: "The database cannot be used",
}
READS = (400, 401, 429)
"""What every route with a token may refuse with."""
WRITES = (*READS, 403, 413, 415)
"""And every one that takes a body, and needs more than a viewer."""


def refusals(*statuses: int) -> dict[int, ResponseSpec]:
    """What a route may refuse with, for its description."""
    return {
        status: ResponseSpec(Told, generate_examples=False, description=_MEANS[status]) for status in sorted(statuses)
    }


def status_of(error: LimosaError) -> int:
    """The HTTP status of one of limosa's own errors."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def told(_request: Request[Any, Any, Any], error: LimosaError) -> Response[dict[str, Any]]:
    """One of limosa's own errors."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, TooManyTokens):
        headers = {"Retry-After": str(error.wait)}
    return Response(error.to_wire(), status_code=status, headers=headers)


def refused(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """What the framework refuses: no such route, a body that is none."""
    kind = NotFound if error.status_code == 404 else UsageError
    detail = "; ".join(map(_where, error.extra)) if isinstance(error.extra, list) else ""
    said = "the request does not fit" if isinstance(error, ValidationException) else error.detail
    what = f"{request.method} {request.url.path}: {said}"
    refusal = kind(f"{what}: {detail}" if detail else what, remedy="/openapi.json says what is understood")
    return Response(refusal.to_wire(), status_code=error.status_code, headers=error.headers)


def _where(extra: Any) -> str:
    if not isinstance(extra, dict):
        return str(extra)
    return f"{extra.get('key', '')}: {extra.get('message', '')}".removeprefix(": ")


def failed(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """What should not happen."""
    _log.error("a request failed", path=request.url.path, exc_info=error)
    what = f"the controller failed: {type(error).__name__}"
    return Response(LimosaError(what, remedy="see its log, and report it").to_wire(), status_code=500)
