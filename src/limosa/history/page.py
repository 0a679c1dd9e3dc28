"""A report as one HTML file that stands alone: no script, no font, no picture and no style from elsewhere. Pure.

Every number on a page is a `<data>` or `<time>` element that names, in `data-of`, the place in the report's JSON it was
taken from, and carries the value that stands there; so the page can be read by programs, and held against the JSON.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from limosa.history import canvas
from limosa.history.bars import causes_plot, class_words, spread_plot
from limosa.history.canvas import milliseconds_text, seconds_text
from limosa.history.curves import progress_plot, rates_plot
from limosa.history.documents import Document, MoveDocument, OperationDocument, WeekDocument
from limosa.history.timeline import moves_plot, pause_plot, stages_plot
from limosa.history.words import place_of
from limosa.units import format_rate, format_size
from limosa.wire.history import Distribution, Series

MOST_READINGS = 20
"""Rows of a table of readings; the JSON has all of them."""
MOST_MOVES = 1000
"""Rows of a table of moves."""

ABSENT = Markup('<span class="absent">not known</span>')
_TURNING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of what follows; a name must not turn the sentence that it stands in."""
_TIME = Markup('<time datetime="{}" data-of="{}" data-value="{}">{}</time>')
_DATA = Markup('<data value="{}" data-of="{}">{}</data>')


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _count(value: int) -> str:
    return f"{value:,}"


WORDS: Mapping[str, Callable[[Any], str]] = {
    "count": _count,
    "size": format_size,
    "rate": format_rate,
    "seconds": seconds_text,
    "moment": lambda value: f"{value:,.3f} s",
    "ms": lambda value: milliseconds_text(value) if value >= 1000 else f"{value:.1f} ms",
    "hours": lambda value: f"{value:,.2f} h",
    "watthours": lambda value: f"{value:,.0f} Wh" if value < 10_000 else f"{value / 1000:,.1f} kWh",
    "money": lambda value: f"{value:,.2f}",
    "share": lambda value: f"{value:.0f} %",
    "time": _clock,
}
"""How values of a kind are written."""


def _plain(value: Any) -> Any:
    """Whatever a template shows: in text that is not the template's own, turning characters are written out."""
    return _TURNING.sub(lambda found: f"\\u{ord(found[0]):04x}", value) if type(value) is str else value


def value_at(document: Any, path: str) -> Any:
    """What stands at a place such as `record.stages.0.started`; None where a part of the way is missing."""
    for name in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(name)
        elif isinstance(document, list | tuple):
            document = document[int(name)]
        else:
            return None
    return document


def html(document: Document, *, made: float) -> str:
    """The page of a report.

    Args:
        document: what it is about.
        made: when, in seconds since 1970.
    """
    environment = Environment(
        loader=PackageLoader("limosa.history"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = msgspec.to_builtins(document)

    def shown(path: str, kind: str = "count") -> Markup:
        value = value_at(told, path)
        if value is None:
            return ABSENT
        if kind == "time":
            moment = datetime.fromtimestamp(value, UTC).isoformat()
            return _TIME.format(moment, path, repr(value), _clock(value))
        return _DATA.format(repr(value), path, WORDS[kind](value))

    template, more = _template(document)
    return environment.get_template(template).render(
        document=document,
        shown=shown,
        style=Markup(canvas.STYLE),  # noqa: S704  (fixed text)
        made=_clock(made),
        version=version("limosa"),
        milliseconds_text=milliseconds_text,
        seconds_text=seconds_text,
        class_words=class_words,
        place_of=place_of,
        **more,
    )


def _template(document: Document) -> tuple[str, dict[str, Any]]:
    match document:
        case MoveDocument(record=record):
            plots = {
                "stages": stages_plot(record),
                "pause": pause_plot(record.pause) if record.pause else "",
                "rates": rates_plot(record),
                "progress": progress_plot(record),
            }
            picked = {series.item: picked_readings(series) for series in record.series}
            return "move.html", {"plots": _safe(plots), "picked": picked}
        case OperationDocument(records=records, causes=causes):
            plots = {
                "moves": moves_plot(records[:MOST_MOVES]),
                "causes": causes_plot(causes) if causes else "",
                "blackout": _spread("blackout", "Pauses of its moves", document.blackout_ms, milliseconds_text),
            }
            return "operation.html", {"plots": _safe(plots)}
        case WeekDocument(week=week):
            plots = {
                "causes": causes_plot(week.causes) if week.causes else "",
                "blackout": _spread("blackout", "Pauses of the week's moves", week.blackout_ms, milliseconds_text),
                "total": _spread("total", "How long moves took", week.total_seconds, seconds_text),
            }
            return "week.html", {"plots": _safe(plots), "most_moves": MOST_MOVES}


def _spread(key: str, title: str, spread: Distribution | None, words: Callable[[float], str]) -> str:
    return spread_plot(key, title, spread, words) if spread else ""


def _safe(plots: Mapping[str, str]) -> dict[str, Markup]:
    """Plots escape what they are given by themselves."""
    return {name: Markup(plot) for name, plot in plots.items()}  # noqa: S704


def picked_readings(series: Series) -> tuple[int, ...]:
    """Places of the readings that a table shows: evenly spread, the first and the last among them."""
    count = len(series.at)
    if count <= MOST_READINGS:
        return tuple(range(count))
    return tuple(round(place * (count - 1) / (MOST_READINGS - 1)) for place in range(MOST_READINGS))
