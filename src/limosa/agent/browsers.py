"""What keeps web sites away from an agent that a browser reaches, over `ssh -L` or on loopback.

A site that somebody visits can make his browser ask whatever its machine reaches. It cannot choose the name in `Host`:
a site that has its own name point to a loopback address (DNS rebinding) is told by it. And it cannot keep a browser
from saying where a request comes from.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from aiohttp import web

from limosa.errors import Forbidden

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
API = "/v1/"
LOCAL = ".localhost"
"""Below it every name is this machine (RFC 6761); browsers ask nobody for it."""


def name_of(authority: str) -> str:
    """The name in `Host`, without its port: `[::1]:8448` -> `::1`; empty where it is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def only_here(authority: str) -> bool:
    """Whether nobody out there can own the name in `Host`: it has no dot, is a loopback address, or `….localhost`."""
    name = name_of(authority)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return "." not in name or name.endswith(LOCAL)


def from_own_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a request comes from a page of the site that it goes to."""
    fetched, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if fetched is not None:
        return fetched == "same-origin"
    return origin is not None and urlsplit(origin).netloc == headers.get("Host")


def of_a_page(headers: Mapping[str, str]) -> bool:
    """Whether a page made this request: not a program, nor somebody who typed its address."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none"


@web.middleware
async def gate(request: web.Request, handler: Handle) -> web.StreamResponse:
    """For the API's socket: names that only this machine has; and no page, our own ones included, calls the API.

    Raises:
        Forbidden: it is asked under another name, or by a page.
    """
    if not only_here(request.headers.get("Host", "")):
        what = f"this agent is not called {name_of(request.headers.get('Host', '')) or 'that'}"
        raise Forbidden(what, remedy="open it as localhost")
    if request.path.startswith(API) and of_a_page(request.headers):
        raise Forbidden("the API is for programs, and a page called it", remedy="use the pages: /")
    return await handler(request)
