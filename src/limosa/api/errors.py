"""Errors as the API tells them: a status, and the same parts as everywhere (`LimosaError.to_wire`)."""

from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from limosa.errors import (
    Blocked,
    Fenced,
    Forbidden,
    LimosaError,
    NotFound,
    NoToken,
    PeerError,
    StateDiskError,
    UsageError,
)

_log = structlog.get_logger()
_STATUS: tuple[tuple[type[LimosaError], int], ...] = (
    (NoToken, 401),
    (Forbidden, 403),
    (UsageError, 400),
    (NotFound, 404),
    (Blocked, 409),
    (Fenced, 409),
    (StateDiskError, 503),
    (PeerError, 502),
)


def status_of(error: LimosaError) -> int:
    """The HTTP status of one of limosa's own errors."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def told(_request: Request[Any, Any, Any], error: LimosaError) -> Response[dict[str, Any]]:
    """One of limosa's own errors."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(error.to_wire(), status_code=status, headers=headers)


def refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """What the framework refuses: no such route, a body that is none."""
    kind = NotFound if error.status_code == 404 else UsageError
    detail = "; ".join(map(_where, error.extra)) if isinstance(error.extra, list) else ""
    what = "the request does not fit" if isinstance(error, ValidationException) else error.detail
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
