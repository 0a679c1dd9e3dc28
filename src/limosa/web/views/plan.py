"""A plan that nobody has begun: what it would do, and the form that begins it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from limosa.web.views.operations import OperationPage


@dataclass(frozen=True, slots=True)
class PlanPage:
    """The page."""

    operation: OperationPage
    asked: Mapping[str, str]
    """What the form sends along: what was asked."""
    mark: str
    """Names this plan: only it is begun."""
    why: str
    changed: bool
    """Whether the one that was shown before is another one."""
