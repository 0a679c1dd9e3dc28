"""How values are spread, and how moves ended. Pure."""

from collections.abc import Callable, Sequence

from limosa.history.canvas import BOTTOM, LETTER, RIGHT, ROW, TOP, WIDTH, Scale, figure, label, line, ticks
from limosa.svg import rect, text
from limosa.wire.history import Cause, Distribution
from limosa.wire.moves import MoveState

HEIGHT = 220.0
LEFT = 64.0
LABELS = 260.0


def spread_plot(key: str, title: str, spread: Distribution, words: Callable[[float], str]) -> str:
    """A bar for each class that has values, and for those between them.

    Args:
        key: names the plot within its page.
        title: what is spread.
        spread: the classes and their counts.
        words: how a bound is written.
    """
    used = [place for place, count in enumerate(spread.counts) if count]
    classes = range(max(0, used[0] - 1), min(len(spread.counts), used[-1] + 2))
    most = max(spread.counts)
    across = Scale(0.0, float(len(classes)), LEFT, WIDTH - RIGHT)
    up = Scale(0.0, most * 1.15, HEIGHT - BOTTOM, TOP)
    longest = max(len(class_words(spread, place, words)) for place in classes)
    crowded = longest * LETTER > across(1) - across(0)
    parts = []
    for value in ticks(float(most), 4):
        if value == int(value):
            parts += [line(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")]
            parts += [text(LEFT - 8, up(value) + 4, f"{value:.0f}", kind="dim end")]
    for column, place in enumerate(classes):
        count, said = spread.counts[place], class_words(spread, place, words)
        x, width = across(column), across(1) - across(0)
        if count:
            parts.append(rect(x + 3, up(count), width - 6, up(0) - up(count), "main", f"{said}: {count}"))
            parts.append(text(x + width / 2, up(count) - 5, str(count), kind="middle"))
        lower = 12.0 if crowded and column % 2 else 0.0
        parts.append(text(x + width / 2, HEIGHT - BOTTOM + 16 + lower, said, kind="dim middle"))
    parts.append(line(LEFT, up(0), WIDTH - RIGHT, up(0), "axis"))
    parts.append(text(WIDTH / 2, HEIGHT - 4, "moves in each class", kind="dim middle"))
    described = (
        f"{spread.count} values: half of them at most {words(spread.p50)}, nine in ten at most {words(spread.p90)}, "
        f"the largest {words(spread.largest)}."
    )
    return figure(key, HEIGHT, title, described, parts)


def class_words(spread: Distribution, place: int, words: Callable[[float], str]) -> str:
    """Names a class by its upper bound: `≤ 50 ms`."""
    return f"> {words(spread.bounds[-1])}" if place == len(spread.bounds) else f"≤ {words(spread.bounds[place])}"


def causes_plot(causes: Sequence[Cause], key: str = "causes") -> str:
    """A bar for each way in which moves ended."""
    most = max((cause.count for cause in causes), default=0)
    across = Scale(0.0, float(most or 1), LABELS, WIDTH - RIGHT - 60)
    parts = []
    for place, cause in enumerate(causes):
        y, said = TOP + place * ROW, cause_words(cause)
        kind = "main" if cause.state is MoveState.COMPLETED else "bad"
        # Narrower bars for what did not complete, so that colour is not the only sign.
        height = (ROW - 8) * (1.0 if cause.state is MoveState.COMPLETED else 0.6)
        parts.append(label(LABELS - 10, y + ROW * 0.68, said, LABELS - 14, "end"))
        middle = y + ROW / 2
        width = max(2.0, across(cause.count) - LABELS)
        parts.append(rect(LABELS, middle - height / 2, width, height, kind, f"{said}: {cause.count}"))
        parts.append(text(LABELS + width + 8, y + ROW * 0.68, str(cause.count)))
    described = "; ".join(f"{cause_words(cause)}: {cause.count}" for cause in causes)
    return figure(key, TOP * 2 + ROW * max(1, len(causes)), "How moves ended", f"{described}.", parts)


def cause_words(cause: Cause) -> str:
    """`completed`, or `failed: move-failed`."""
    return f"{cause.state}: {cause.cause}" if cause.cause and cause.cause != cause.state else str(cause.state)
