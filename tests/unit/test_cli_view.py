import msgspec
import pytest

from limosa.cli.eta import Eta, eta, eta_words, latest
from limosa.cli.view import History, PlainView, clock, lines, plain, stage_phases
from limosa.testing import moves
from limosa.units import Side
from limosa.wire.moves import MoveState, MoveStatus, Progress, Stage


def ram(done: int, **more: object) -> Progress:
    values = {"item": "ram", "done": done, "total": 100, "rate": 10.0, "passes": 1, "state": "copying"} | more
    return Progress(**values)  # type: ignore[arg-type]


def status(
    state: MoveState = MoveState.RUNNING, stage: Stage = Stage.COPY, elapsed: float = 0.0, *progress: Progress
) -> MoveStatus:
    return moves.status(state, stage, id="m-1", guest_runs=Side.SOURCE, elapsed=elapsed, progress=progress)


def test_an_eta_spans_the_latest_rates() -> None:
    assert eta([ram(10, rate=20.0), ram(20, rate=10.0)]) == Eta(4.0, 8.0)


def test_what_the_guest_dirties_makes_the_end_later() -> None:
    assert eta([ram(20, dirty_rate=5.0)]) == Eta(8.0, 16.0)


@pytest.mark.parametrize("more", [{"dirty_rate": 10.0}, {"state": "not converging"}])
def test_no_end_is_promised_to_a_copy_that_does_not_converge(more: dict[str, object]) -> None:
    assert eta([ram(20, **more)]) == Eta(8.0, None)
    assert eta_words(eta([ram(20, **more)])) == "at least 8 s left"


def test_nothing_is_said_without_a_rate() -> None:
    assert eta([ram(20, rate=0.0)]) is None
    assert eta_words(None) == ""


def test_the_slowest_copy_decides() -> None:
    assert latest([Eta(1, 2), Eta(3, 9), Eta(0, 0)]) == Eta(3, 9)
    assert latest([Eta(1, 2), None]) == Eta(1, None)
    assert latest([Eta(1, 2), Eta(0, None)]) == Eta(1, None)
    assert latest([]) is None


@pytest.mark.parametrize(
    ("range_", "words"),
    [
        (Eta(4, 6.2), "4-6 s left"),
        (Eta(0.2, 0.4), "1 s left"),
        (Eta(33, 300), "35 s-5 min left"),
        (Eta(0, 0), ""),
    ],
)
def test_a_range_in_words(range_: Eta, words: str) -> None:
    assert eta_words(range_) == words


def test_stages_before_the_present_one_are_past() -> None:
    phases = stage_phases(status(stage=Stage.PREPARE))
    assert list(phases.values()) == ["past", "past", "now"] + ["to come"] * 5
    assert set(stage_phases(status(MoveState.COMPLETED, Stage.RETIRE)).values()) == {"past"}
    assert stage_phases(status(MoveState.FAILED))[Stage.COPY] == "failed"


def test_a_bar_never_runs_backwards_within_its_pass() -> None:
    history = History()
    for reading in (ram(80), ram(50)):
        history.add(status(MoveState.RUNNING, Stage.COPY, 0.0, reading))
    assert history.furthest(ram(50)) == 0.8
    assert history.furthest(ram(50, passes=2)) == 0.5


def test_the_view_shows_each_copied_thing_and_what_troubles() -> None:
    now = status(
        MoveState.RUNNING,
        Stage.COPY,
        65.0,
        ram(20, state="not converging", dirty_rate=12.0),
        ram(3, item="vda", passes=0),
    )
    history = History()
    history.add(now)
    title, stages, first, second, silence = (plain(line) for line in lines(now, history, silent_for=7.0))
    assert title == "web1  a → b  move m-1  1:05  at least 10 s left"
    assert stages.startswith("✓ check  ✓ reserve  ✓ prepare  ▶ copy  · switch over")
    assert "pass 1  dirtied at 12 B/s  not converging  at least 8 s left" in first
    assert second.startswith("  vda")
    assert silence == "no word from the agent for 7 s"


def test_what_was_copied_is_not_converging_any_more() -> None:
    now = status(MoveState.RUNNING, Stage.RESUME, 65.0, ram(99, state="converging"))
    copied = plain(lines(now, History())[2])
    assert copied.endswith("99 B of 100 B")


def test_the_plain_view_speaks_when_something_changes_or_ten_seconds_passed() -> None:
    view = PlainView()
    assert view.next(status(stage=Stage.CHECK)) == ("0:00 running check",)
    assert view.next(status(stage=Stage.CHECK, elapsed=5)) == ()
    assert view.next(status(MoveState.RUNNING, Stage.COPY, 6.0, ram(20))) == (
        "0:06 running copy",
        "      ram: 20 B of 100 B, 10 B/s, pass 1, copying, 8 s left",
    )
    assert view.next(status(MoveState.RUNNING, Stage.COPY, 7.0, ram(30))) == ()
    assert len(view.next(status(MoveState.RUNNING, Stage.COPY, 16.0, ram(90)))) == 2


def test_a_clock_shows_hours_when_there_are_any() -> None:
    assert [clock(s) for s in (0.9, 65, 3725)] == ["0:00", "1:05", "1:02:05"]


def doubted() -> MoveStatus:
    error = {"code": "move-in-doubt", "what": "b has not said", "remedy": "bring b back"}
    return msgspec.structs.replace(status(MoveState.IN_DOUBT, Stage.COMMIT), guest_runs=Side.UNKNOWN, error=error)


def test_a_doubt_says_what_is_waited_for_and_what_to_do() -> None:
    text = [plain(line) for line in lines(doubted(), History())]
    assert "in doubt" in text[0]
    assert text[2:] == [
        "in doubt: b has not said",
        "  where: web1 is paused on a, and on b unless it was taken over there: start it nowhere by hand",
        "  to do: bring b back",
    ]
    view = PlainView()
    assert [line.strip() for line in view.next(doubted())][1:] == [line.strip() for line in text[2:]]
    assert view.next(doubted()) == ()


def test_a_move_that_settles_says_so() -> None:
    assert "settling" in plain(lines(status(MoveState.SETTLING), History())[0])
