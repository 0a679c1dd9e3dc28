"""What forms do: the same that the API does, by the same calls, under the same roles."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from limosa.api.auth import NO_TOKEN
from limosa.api.errors import status_of
from limosa.errors import LimosaError, NotFound
from limosa.fleet.inventory import HostState
from limosa.fleet.operations.advance import Wish
from limosa.web.controller.answers import failed, html, onward
from limosa.web.controller.asked import checked, operation_asked, plan_mark
from limosa.web.controller.pages import shown_page
from limosa.web.controller.show import HOOKS, TOKENS, hooks_shown, plan_shown, tokens_shown
from limosa.web.controller.signin import form_of
from limosa.web.controller.visit import Asked, Site, Visit, require_form, require_own_site, visit
from limosa.web.links import path
from limosa.wire.fleet import Role, StateAsked, TokenAsked
from limosa.wire.hooks import HookMeant

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class Action:
    """A form's address, whom it obeys, and what it does; it leads to an address, or shows a page."""

    where: str
    role: Role
    does: Callable[[Visit, Form], Awaitable[str | Response[bytes]]]


def handlers(site: Site, actions: Sequence[Action]) -> list[HTTPRouteHandler]:
    """Actions."""
    return [_obeys(site, each) for each in actions]


def _obeys(site: Site, action: Action) -> HTTPRouteHandler:
    @post(action.where, opt={NO_TOKEN: True}, include_in_schema=False, status_code=303, name=f"form {action.where}")
    async def obey(request: Asked) -> Response[bytes]:
        visited = await visit(site, request)
        try:
            require_own_site(request)
            form = await form_of(request)
            require_form(visited.word, form)
            visited.require(action.role)
            answer = await action.does(visited, form)
        except LimosaError as error:
            return failed(request, site, error, visited.visitor, status_of(error))
        return onward(answer) if isinstance(answer, str) else answer

    return obey


async def begin(visited: Visit, form: Form) -> str | Response[bytes]:
    """Begin the operation whose plan was shown; where the fleet has changed since, show the new plan instead."""
    asked, controller, who = operation_asked(form), visited.controller, visited.session.name
    kept = await controller.submit(msgspec.structs.replace(asked, approved=False), who, "", "")
    if plan_mark(kept.items) == form.get("plan"):
        await controller.begin(kept.id, who, asked.why)
        return path("operations", kept.id)
    await controller.wish(kept.id, Wish.CANCEL, who, "the fleet has changed since the plan was shown")
    fields = {name: value for name, value in form.items() if name not in {"form", "plan"}}
    shown = await plan_shown(visited, asked, fields, changed=True)
    return html(visited.request, shown_page(visited, "plan.html", shown, where="/plan"), 409)


async def keep(visited: Visit, form: Form) -> str:
    """Keep a plan for somebody else to approve."""
    asked = msgspec.structs.replace(operation_asked(form), approved=False)
    return path("operations", (await visited.controller.submit(asked, visited.session.name, "", "")).id)


async def steer(visited: Visit, form: Form) -> str:
    """Approve, pause, resume or cancel. Raises NotFound, Blocked."""
    operation, deed = visited.named["operation"], visited.named["deed"]
    who, why = visited.session.name, form.get("why", "").strip()[:2000]
    if deed == "approve":
        await visited.controller.approve(operation, who, why)
    elif deed in _WISHES:
        await visited.controller.wish(operation, _WISHES[deed], who, why)
    else:
        raise NotFound(f"an operation cannot be told to {deed}")
    return path("operations", operation)


_WISHES = {"pause": Wish.PAUSE, "resume": Wish.RUN, "cancel": Wish.CANCEL}


async def set_state(visited: Visit, form: Form) -> str:
    """What a host is used for from now on. Raises NotFound, UsageError."""
    asked = checked({"state": form.get("state", ""), "why": form.get("why", "").strip()}, StateAsked)
    await visited.controller.set_state(visited.named["name"], HostState(asked.state), visited.session.name, asked.why)
    return path("hosts", visited.named["name"])


async def make_token(visited: Visit, form: Form) -> Response[bytes]:
    """Make a token, and tell its word once. Raises Blocked, UsageError."""
    asked = checked({"name": form.get("name", "").strip(), "role": form.get("role", "")}, TokenAsked)
    made = await visited.controller.tokens.make(asked.name, asked.role, visited.session.name)
    shown = await tokens_shown(visited, made)
    return html(visited.request, shown_page(visited, TOKENS, shown, where="/tokens"), 201)


async def remove_token(visited: Visit, _form: Form) -> str:
    """Remove a token, and with it its sessions. Raises NotFound."""
    await visited.controller.tokens.remove(visited.named["name"], visited.session.name)
    return "/tokens"


async def test_hooks(visited: Visit, form: Form) -> Response[bytes]:
    """Send a test event to a hook, or to all, and show what was answered. Raises NotFound, UsageError."""
    asked = checked({"hook": form.get("hook", "")}, HookMeant)
    tried = await visited.controller.test_hooks(asked.hook, visited.session.name)
    return html(visited.request, shown_page(visited, HOOKS, await hooks_shown(visited, tried), where="/hooks"))


ACTIONS = (
    Action("/operations", Role.OPERATOR, begin),
    Action("/operations/keep", Role.OPERATOR, keep),
    Action("/operations/{operation:str}/{deed:str}", Role.OPERATOR, steer),
    Action("/hosts/{name:str}/state", Role.ADMIN, set_state),
    Action("/hooks/test", Role.ADMIN, test_hooks),
    Action("/tokens", Role.ADMIN, make_token),
    Action("/tokens/{name:str}/remove", Role.ADMIN, remove_token),
)
