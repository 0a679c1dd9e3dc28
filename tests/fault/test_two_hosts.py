"""The real engine over a model of two hosts: every fault, before and after every deed and every message.

A case takes some milliseconds of real time. By default a part of all cases is played, the time between hand-over and
resumption more densely than the rest; LIMOSA_EVERY=1 plays them all.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from limosa.errors import LimosaError
from limosa.migration.arrival import Arrival
from limosa.migration.departure import Departure
from limosa.migration.ends import Destination, Settled, TakeAsk, Told
from limosa.migration.plan import arrange
from limosa.migration.steps import Commit, HandOver, ResumeThere, RetireSource, Step
from limosa.migration.store import Store
from limosa.testing.model.verdict import BOTH_WAYS, FAULTS, complaints, told
from limosa.testing.model.world import Setting, World, play
from limosa.units import MoveId, Side
from limosa.wire.hooks import HookEvent
from limosa.wire.moves import MoveState

SPARSE = int(os.environ.get("LIMOSA_EVERY", "16"))
DENSE = min(SPARSE, 4)
TWO_DISKS = Setting(disks=2, nics=1)


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    place = Path(mkdtemp(prefix="limosa-model-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@cache
def points() -> tuple[str, ...]:
    """What happens, in order, in a move in which nothing fails."""
    place = Path(mkdtemp(prefix="limosa-model-"))
    return tuple(play(TWO_DISKS, {}, place).trace)


def chosen(shift: int) -> Iterator[int]:
    """Numbers of the points at which a fault is played; faults with another shift get others."""
    first = points().index("a qmp migrate-continue: before")
    last = points().index("answer to move.resume arrived")
    for number in range(1, len(points()) + 1):
        if (number + shift) % (DENSE if first <= number <= last + 1 else SPARSE) == 0:
            yield number


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_at_any_point_leaves_one_guest_with_all_its_data_and_nothing_else(fault: str, ground: Path) -> None:
    shift = list(FAULTS).index(fault)
    broken = {}
    for number in chosen(shift):
        world = play(TWO_DISKS, {number: [FAULTS[fault]]}, ground / "case")
        if trouble := complaints(world):
            broken[number, points()[number - 1]] = trouble
    assert not broken


@pytest.mark.parametrize("setting", [Setting(d, n, running=r) for d in (0, 2) for n in (0, 2) for r in (True, False)])
def test_a_move_without_faults_arrives_with_at_most_one_durable_write_of_each_agent_in_the_pause(
    setting: Setting, ground: Path
) -> None:
    world = play(setting, {}, ground / "case")
    assert complaints(world) == ()
    assert [status.state for status in world.statuses] == [MoveState.COMPLETED]
    assert world.owner() == "b"
    assert world.pauses == ([{"a": 1, "b": 1}] if setting.running else world.pauses)
    ((event, news),) = told(world)
    assert (event.type, event.teller, news.host, news.source, news.epoch) == ("guest.moved", "b", "b", "a", 1)
    assert (news.blackout_ms is not None) == setting.running


@pytest.mark.parametrize("fault", ["agent a killed", "agent b killed", "peer link cut", "both links cut", "abort"])
def test_the_same_guest_moves_again_after_a_fault(fault: str, ground: Path) -> None:
    async def again(world: World) -> None:
        there = "a" if world.owner() == "b" else "b"
        await world.move(world.owner(), there)
        assert world.executing() == [there]

    for number in chosen(list(FAULTS).index(fault)):
        if number % 3 == 0:
            assert play(TWO_DISKS, {number: [FAULTS[fault]]}, ground / "case", also=again).complaints == []


def test_a_host_that_was_cut_off_stays_down_when_the_guest_has_moved_on_meanwhile(ground: Path) -> None:
    number = points().index("answer to move.take-over sent") + 1

    def cut_off(world: World) -> None:
        world.cut_link(*BOTH_WAYS, back=60)
        world.after(20, lambda: world.begin("b", "c"))

    world = play(TWO_DISKS, {number: [cut_off]}, ground / "case", names=("a", "b", "c"))
    assert world.complaints == []
    assert world.executing() == ["c"]
    assert sorted(status.state for status in world.statuses) == [MoveState.COMPLETED, MoveState.COMPLETED]


# -- what the same checks say of an engine with one mistake in it ----------------------------------------------


def swapped(first: type, second: type) -> Callable[[tuple[Step, ...]], tuple[Step, ...]]:
    def swap(plan: tuple[Step, ...]) -> tuple[Step, ...]:
        steps = list(plan)
        early = next(n for n, step in enumerate(steps) if isinstance(step, first))
        late = next(step for step in steps if isinstance(step, second))
        steps.remove(late)
        steps.insert(early, late)
        return tuple(steps)

    return swap


def early_hand_over(plan: tuple[Step, ...]) -> tuple[Step, ...]:
    """The last RAM is sent before the mirrors are finished."""
    steps = [step for step in plan if not isinstance(step, HandOver)]
    finish = next(n for n, step in enumerate(steps) if getattr(step, "deed", "") == "finish")
    return (*steps[:finish], HandOver(), *steps[finish:])


def broken_plan(change: Callable[[tuple[Step, ...]], tuple[Step, ...]], patch: pytest.MonkeyPatch) -> None:
    patch.setattr("limosa.migration.survey.arrange", lambda *args, **options: change(arrange(*args, **options)))


def resume_before_commit(patch: pytest.MonkeyPatch) -> None:
    broken_plan(swapped(Commit, ResumeThere), patch)


def resume_before_commit_unchecked(patch: pytest.MonkeyPatch) -> None:
    """As above, with a destination that does not ask whether it owns what it runs."""

    async def resume(self: Arrival) -> Told:
        await self.monitor.execute("cont")
        return Told()

    broken_plan(swapped(Commit, ResumeThere), patch)
    patch.setattr(Arrival, "resume", resume)


def hand_over_before_mirrors_are_finished(patch: pytest.MonkeyPatch) -> None:
    broken_plan(early_hand_over, patch)


def retire_before_resume(patch: pytest.MonkeyPatch) -> None:
    broken_plan(swapped(ResumeThere, RetireSource), patch)


def take_over_without_a_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "take", lambda *_: None)


def give_up_after_the_grant(patch: pytest.MonkeyPatch) -> None:
    give_up, take_over = Departure.give_up, Destination.take_over
    kept: dict[str, Departure] = {}

    def only_say(self: Departure) -> TakeAsk:
        kept[self.move] = self
        return TakeAsk(move=self.move, epoch=self.epoch + 1, token="t", cont=self.running)

    async def then_record(self: Destination, grant: TakeAsk) -> None:
        await take_over(self, grant)
        give_up(kept[grant.move])

    patch.setattr(Departure, "give_up", only_say)
    patch.setattr(Destination, "take_over", then_record)


def take_silence_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    ask = Destination.settle

    async def guess(self: Destination) -> Settled:
        try:
            return await ask(self)
        except LimosaError:
            return Settled(taken=False, epoch=0)

    patch.setattr(Destination, "settle", guess)


def come_back_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """After a restart the source goes back, whatever it recorded."""
    patch.setattr(Departure, "gave_up", property(lambda _: False))


def forget_who_was_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "taken", lambda *_: None)


def never_give_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Arrival, "_give_back", lambda _: False)


def give_back_what_has_run(patch: pytest.MonkeyPatch) -> None:
    def give_back(self: Arrival) -> bool:
        if self.lost and not self._closed:
            self.store.give_back(self.move, self.identity)
            self.committed = False
        return not self.committed

    patch.setattr(Arrival, "_give_back", give_back)


def tell_in_a_write_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """What hooks shall hear is recorded after the end of the move, not with it."""
    close = Store.close_move

    def close_then_tell(self: Store, move: MoveId, side: Side, ending: str, news: HookEvent | None = None) -> None:
        close(self, move, side, ending)
        if news is not None:
            with self._writing():
                self.outbox.post("web1", news, 0.0)

    patch.setattr(Store, "close_move", close_then_tell)


MISTAKES = [
    resume_before_commit,
    resume_before_commit_unchecked,
    hand_over_before_mirrors_are_finished,
    retire_before_resume,
    take_over_without_a_record,
    give_up_after_the_grant,
    take_silence_for_an_answer,
    come_back_without_a_word,
    forget_who_was_taken,
    never_give_back,
    give_back_what_has_run,
    tell_in_a_write_of_its_own,
]
TELLING = [
    "agent a killed",
    "agent b killed",
    "peer link cut",
    "peer link cut the other way",
    "link cut, and a late call",
    "twin killed",
    "link reset, and the twin killed",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_in_the_order_of_things_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = points().index("a qmp migrate-continue: before")
    mistake(monkeypatch)

    def found() -> Iterator[tuple[str, ...]]:
        world = play(TWO_DISKS, {}, ground / "case")
        yield complaints(world)
        yield () if [s.state for s in world.statuses] == [MoveState.COMPLETED] else ("it did not arrive",)
        for number in range(first, len(points())):
            for fault in TELLING:
                yield complaints(play(TWO_DISKS, {number: [FAULTS[fault]]}, ground / "case"))

    said = next((trouble for trouble in found() if trouble), ())
    assert said
    print(mistake.__name__, said)
