"""Who asks, and what he may: bearer tokens, and the role that each route needs."""

from dataclasses import dataclass
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from limosa.errors import Forbidden, NoToken
from limosa.fleet.tokens import Tokens, allows
from limosa.wire.fleet import Role

Connection = ASGIConnection[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it was."""

    name: str
    role: Role


class Authentication(AbstractAuthenticationMiddleware):
    """Every route but those that say `no_token` needs a token that is known."""

    async def authenticate_request(self, connection: Connection) -> AuthenticationResult:
        """Find the caller. Raises NoToken."""
        kind, _, word = connection.headers.get("authorization", "").partition(" ")
        tokens: Tokens = connection.app.state.controller.tokens
        found = await tokens.find(word.strip()) if kind.lower() == "bearer" and word else None
        if found is None:
            raise NoToken(
                "the controller does not know this token" if word else "no token was sent",
                remedy="set LIMOSA_TOKEN, or LIMOSA_TOKEN_FILE; limosa controller token makes one",
            )
        return AuthenticationResult(user=Caller(*found), auth=None)


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
