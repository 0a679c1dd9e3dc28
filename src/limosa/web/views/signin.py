"""The page on which a token is entered. Pure."""

from dataclasses import dataclass

from limosa.web.frame import Failure


@dataclass(frozen=True, slots=True)
class SignIn:
    """What it shows."""

    next: str
    """Where to go on."""
    failure: Failure | None
