"""Pages out of templates. Everything that a template prints is escaped, and what a view does not have is an error."""

import gzip
import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from limosa.web import words
from limosa.web.frame import Frame
from limosa.web.links import address, path
from limosa.web.remedies import pieces

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every page."""

KINDS: Mapping[str, str] = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Files that pages load, by their ending; nothing else in the directory is served."""

ROWS = 25_000
"""Rows and tiles that are kept as they were drawn: twice those of the longest table."""
BITS = 4000
"""States and bars that are kept so: of a long table's rows most have the same few."""
SMALL = 1400
"""Bytes that fit a packet anyway."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load."""

    content: bytes
    kind: str
    mark: str
    """Changes with its content; part of its address, so that a browser may keep it for ever."""


@cache
def assets() -> Mapping[str, Asset]:
    """Every file that pages load, by its name below `static`."""
    top = files("limosa.web").joinpath("static")
    found = {each.name: each for each in top.iterdir() if each.is_file()}
    found |= {f"vendor/{each.name}": each for each in top.joinpath("vendor").iterdir()}
    return {name: _asset(name, each.read_bytes()) for name, each in found.items() if name.rpartition(".")[2] in KINDS}


def _asset(name: str, content: bytes) -> Asset:
    return Asset(content, KINDS[name.rpartition(".")[2]], hashlib.sha256(content).hexdigest()[:12])


def asset(name: str) -> str:
    """The address of a file that pages load."""
    return f"/static/{name}?{assets()[name].mark}"


@cache
def environment() -> jinja2.Environment:
    """The templates."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("limosa.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"asset": asset, "path": path, "address": address, "words": words, "mark": mark, "pieces": pieces}
    made.globals |= {"rows": rows, "bit": bit}
    made.globals["ui"] = made.get_template("ui.html").module
    return made


def rows(kind: str, views: Iterable[Hashable]) -> Markup:
    """Rows or tiles side by side, as everybody sees them on every page.

    Args:
        kind: a macro of `rows.html`.
        views: what they show.
    """
    return Markup("".join([_row(kind, view) for view in views]))  # noqa: S704 - each is escaped already


@lru_cache(ROWS)
def _row(kind: str, view: Hashable) -> Markup:
    """One of them: drawn once for as long as it says the same."""
    return _macro("rows.html", kind)(view)


@lru_cache(BITS)
def bit(kind: str, *said: Hashable) -> Markup:
    """A state or a bar of a row: drawn once for all rows that have the same.

    Args:
        kind: a macro of `ui.html`.
        said: its arguments.
    """
    return _macro("ui.html", kind)(*said)


@cache
def _macro(template: str, name: str) -> Callable[..., Markup]:
    found: Callable[..., Markup] = getattr(environment().get_template(template).module, name)
    return found


def mark(kind: str, name: str) -> str:
    """An id for an element: the same for the same thing, and fit for a selector whatever its name is."""
    return f"{kind}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:10]}"


def content(template: str, frame: Frame, view: object) -> str:
    """What a page shows: all of it that changes while somebody looks.

    Raises:
        jinja2.UndefinedError: the template names what the view does not have.
    """
    shown = environment().get_template(template).render(frame=frame, view=view)
    return f"{titled(frame.title)}{shown}" if frame.live else shown


def titled(title: str) -> Markup:
    """What tells a page that is open how it is called now."""
    said = Markup('<!--part:page-title--><i id="page-title" data-title="{} · limosa" hidden></i><!--end-->\n')
    return said.format(title)


def whole(frame: Frame, shown: str, seen: str = "") -> str:
    """A whole page around its content.

    Args:
        frame: what is around it.
        shown: as `content` made it.
        seen: names it, for the stream of what changes on it.
    """
    return environment().get_template("page.html").render(frame=frame, shown=Markup(shown), seen=seen)  # noqa: S704


def packed(body: bytes, accepted: str) -> tuple[bytes, Mapping[str, str]]:
    """A page as it is sent to a browser that accepts these encodings, and the headers that say so."""
    if len(body) <= SMALL or "gzip" not in accepted:
        return body, {}
    return gzip.compress(body, 5), {"Content-Encoding": "gzip"}
