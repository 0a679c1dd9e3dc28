"""Who asks, and what he may: bearer tokens, and the role that each route needs."""

import time
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from limosa.api.strikes import ALLOWED, Strikes
from limosa.errors import Forbidden, NoToken, TooManyTokens
from limosa.fleet.tokens import Tokens, allows
from limosa.wire.fleet import Role

Connection = ASGIConnection[Any, Any, Any, Any]
_log = structlog.get_logger()

NO_TOKEN = "no_token"  # noqa: S105  (the name of an option)
"""Set, in a route's `opt`, where everybody may come in."""
BEARER = "token"
SECURED: tuple[dict[str, list[str]], ...] = ({BEARER: []},)
"""How a route with a token describes itself."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it was."""

    name: str
    role: Role


class Authentication(AbstractAuthenticationMiddleware):
    """Every route but those that say `no_token` needs a token that is known.

    `user` is then the Caller, and `auth` the word of the token, by which a stream sees when it is removed.
    """

    async def authenticate_request(self, connection: Connection) -> AuthenticationResult:
        """Find the caller. Raises NoToken, TooManyTokens."""
        kind, _, word = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not (word := word.strip()):
            raise NoToken("no token was sent", remedy=_REMEDY)
        # Found by its hash: comparing hashes tells nobody, by how long it takes, how much of a token he has right.
        tokens: Tokens = connection.app.state.controller.tokens
        if (found := await tokens.find(word)) is None:
            address = connection.client.host if connection.client else ""
            refuse(connection.app.state.strikes, address, time.monotonic())
        return AuthenticationResult(user=Caller(*found), auth=word)


_REMEDY = "set LIMOSA_TOKEN, or LIMOSA_TOKEN_FILE; limosa controller token makes one"


def refuse(strikes: Strikes, address: str, now: float) -> NoReturn:
    """A wrong token came from this address. Raises NoToken, TooManyTokens."""
    wrong = strikes.strike(address, now)
    if wrong in {1, ALLOWED}:
        _log.warning("a wrong token", address=address, wrong=wrong)
    if wrong > ALLOWED:
        raise TooManyTokens(f"{wrong} wrong tokens came from {address}", strikes.wait(address, now))
    raise NoToken("the controller does not know this token", remedy=_REMEDY)


async def still_known(request: Request[Caller, str, State]) -> bool:
    """Whether the token that a request came with opens anything yet."""
    tokens: Tokens = request.app.state.controller.tokens
    return await tokens.find(request.auth) is not None


def operator(connection: Connection, _route: BaseRouteHandler) -> None:
    """For routes that need an operator. Raises Forbidden."""
    _require(connection, Role.OPERATOR)


def admin(connection: Connection, _route: BaseRouteHandler) -> None:
    """For routes that need an admin. Raises Forbidden."""
    _require(connection, Role.ADMIN)


def _require(connection: Connection, wanted: Role) -> None:
    caller: Caller = connection.user
    if not allows(caller.role, wanted):
        raise Forbidden(
            f"{caller.name} is a {caller.role}; this takes an {wanted}", remedy="ask an admin for another token"
        )
