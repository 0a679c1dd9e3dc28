"""What a request must keep to before its handler sees it, beyond its types.

A misspelt parameter that is passed over, `?afer=b`, would answer with something that nobody asked for: the first page,
for ever. A body that does not say that it is JSON can be sent by any web page in the name of whoever looks at it.
"""

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import BodyKwarg, PathParameter, QueryParameter

from limosa.wire.fleet import NAME

JSON = "application/json"
LARGEST_NUMBER = 2**53 - 1
"""Up to which every reader of JSON takes numbers exactly; rows are numbered in 64 bits."""

Named = Annotated[str, PathParameter(min_length=1, max_length=253, pattern=NAME)]
"""A name, or an id, in a path."""


class OtherBody(ClientException):
    """The body is of another kind than is understood."""

    status_code = 415


async def understood(request: Request[Any, Any, Any]) -> None:
    """Refuse what would be passed over; Litestar runs it after the guards, so that nobody is told before he may ask.

    Raises:
        NotFoundException: a part of the path is empty. Litestar would pass it over, and answer for another path.
        ClientException: an unknown query parameter, one that is given twice, or a body that does not fit its type.
        OtherBody: a body that is not said to be JSON.
    """
    path = unquote_to_bytes(request.scope["raw_path"])
    if b"//" in path or path.endswith(b"/"):
        raise NotFoundException("a name in the path is empty")
    takes = request.route_handler.parsed_fn_signature.parameters
    known = {name for name, field in takes.items() if isinstance(field.kwarg_definition, QueryParameter)}
    for name in request.query_params:
        if name not in known:
            others = ", ".join(sorted(known)) or "none"
            raise ClientException(f"there is no query parameter {name!r}, but {others}")
        if len(request.query_params.getall(name)) > 1:
            raise ClientException(f"the query parameter {name!r} is given more than once")
    for field in takes.values():
        if isinstance(field.kwarg_definition, BodyKwarg):
            await _fits(request, field.annotation)


async def _fits(request: Request[Any, Any, Any], wanted: Any) -> None:
    """Hold a body against its type exactly: Litestar would take 0 for false, and "1" for 1."""
    kind, _ = request.content_type
    if kind.lower() != JSON:
        said = f"the body is {kind}" if kind else "the request does not say what its body is"
        raise OtherBody(f"{said}, and should be {JSON}")
    try:
        msgspec.json.decode(await request.body(), type=wanted)
    except msgspec.ValidationError as error:
        raise ClientException(f"the body does not fit: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientException(f"the body is no JSON that can be read: {error}") from error
