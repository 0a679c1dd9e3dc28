"""The contract that every kind of cargo must pass, ours and third parties'.

A test module subclasses `KindContract` and gives it a `specimen` fixture: a kind, and a guest that has such cargo.
pytest collects the rest:

    class TestDisks(KindContract):
        @pytest.fixture
        def specimen(self, tmp_path: Path) -> Specimen: ...

What is tried: the questions change nothing; answers and steps survive the wire; rewriting leaves alone what the
guest sees; the whole move arrives, with every deed done twice; and the move is cut before and after each deed,
undone, and undone again, after which the source is as it was and the destination holds nothing.
"""

# ruff: noqa: D102  # a test's name is its sentence

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from limosa.cargo.kind import CargoStep, Kind, Offer, When
from limosa.guest.parts import parts
from limosa.guest.profile import Profile
from limosa.testing.pair import Pair, block_arguments, pair
from limosa.wire.moves import MoveRequest

BEFORE_COMMIT = (When.BEFORE_TWIN, When.COPY, When.BEFORE_RAM, When.PAUSED)
AFTER_COMMIT = (When.BEFORE_CONT, When.ANNOUNCE, When.RETIRE)

Check = Callable[[Pair], Awaitable[None]]


async def nothing_to_check(both: Pair) -> None:
    """A specimen without further checks."""


@dataclass(frozen=True)
class Specimen:
    """A kind of cargo, and a guest that has some.

    `arguments` are the source's; the twin gets `machine` and what `twin_arguments` makes of its profile.
    `untouched` and `arrived` raise AssertionError when the cargo itself is not as it must be after a move that
    was undone, and after one that completed.
    """

    kind: Kind
    profile: Profile
    qemu: Path
    directory: Path
    request: MoveRequest
    machine: Sequence[str] = ("-machine", "q35")
    twin_arguments: Callable[[Profile], list[str]] = block_arguments
    untouched: Check = nothing_to_check
    arrived: Check = nothing_to_check
    storage: Sequence[Path] = field(default_factory=tuple)

    def ends(self, name: str) -> AbstractAsyncContextManager[Pair]:
        """A fresh source and destination, in a directory of their own."""
        place = self.directory / name
        place.mkdir()
        return pair(place, self.profile, [self.kind], self.request, storage=self.storage)

    async def start(self, both: Pair) -> None:
        """Start the source and agree on the move."""
        both.twin_arguments = self.twin_arguments
        await both.source.start(self.qemu, [*self.machine, *self.twin_arguments(self.profile)])
        blocked = await both.agree()
        assert not blocked, blocked


class KindContract:
    """The suite. Subclass it, and give it a fixture `specimen`."""

    def test_it_claims_parts_of_the_profile_and_nothing_else(self, specimen: Specimen) -> None:
        claims = specimen.kind.claims(specimen.profile)
        assert claims
        assert claims <= parts(specimen.profile)

    async def test_questions_change_nothing_and_are_answered_alike(self, specimen: Specimen) -> None:
        async with specimen.ends("questions") as both:
            await specimen.start(both)
            first, twin = both.offers, both.twin
            assert not await both.agree()
            assert (both.offers, both.twin) == (first, twin)
            await untouched(specimen, both)

    async def test_answers_and_steps_survive_the_wire(self, specimen: Specimen) -> None:
        async with specimen.ends("wire") as both:
            await specimen.start(both)
            for offer in both.offers:
                assert msgspec.json.decode(msgspec.json.encode(offer), type=Offer) == offer
            for step in all_steps(both):
                assert msgspec.json.decode(msgspec.json.encode(step), type=CargoStep) == step
                assert step.kind == specimen.kind.name
                assert step.summary
                assert all(what and name for what, name in specimen.kind.creates(step))

    async def test_rewriting_leaves_alone_what_the_guest_sees(self, specimen: Specimen) -> None:
        async with specimen.ends("rewriting") as both:
            await specimen.start(both)
            assert both.twin is not None
            assert [seen(device) for device in both.twin.devices] == [seen(d) for d in specimen.profile.devices]
            for name in ("machine", "cpu", "smp", "memory", "guest_visible", "plugged_cpus", "uuid", "name"):
                assert getattr(both.twin, name) == getattr(specimen.profile, name)
            (offer,) = both.offers
            assert specimen.kind.rewrite(both.twin, offer) == both.twin

    async def test_it_arrives_with_every_deed_done_twice(self, specimen: Specimen) -> None:
        async with specimen.ends("whole") as both:
            await specimen.start(both)
            both.repeats = 2
            await both.make(When.BEFORE_TWIN)
            await both.start_twin(specimen.qemu, *specimen.machine)
            await both.copy()
            await both.hand_over()
            await specimen.arrived(both)

    async def test_cut_before_and_after_every_deed_it_is_as_it_was(self, specimen: Specimen) -> None:
        async with specimen.ends("count") as both:
            await specimen.start(both)
            deeds = [step for when in BEFORE_COMMIT for _, step in both.steps(when)]
        for number, cut in enumerate((deed, after) for deed in deeds for after in (False, True)):
            async with specimen.ends(f"cut{number}") as both:
                await specimen.start(both)
                await make_until(specimen, both, *cut)
                await both.unmake_all()
                await both.unmake_all()
                await untouched(specimen, both)


async def make_until(specimen: Specimen, both: Pair, deed: CargoStep, after: bool) -> None:
    """Make steps up to this one; it is recorded as intended, but made only if the cut comes `after` it."""
    for when in BEFORE_COMMIT:
        if when is When.COPY:
            await both.start_twin(specimen.qemu, *specimen.machine)
        for kind, step in both.steps(when):
            both.made.append(step)
            if step != deed or after:
                await kind.make(step, both.end(step))
            if step == deed:
                return


async def untouched(specimen: Specimen, both: Pair) -> None:
    """The source runs, holds nothing of limosa's, and its cargo is as it was."""
    monitor = both.source.monitor
    assert (await monitor.execute("query-status"))["status"] == "running"
    assert await monitor.execute("query-jobs") == []
    nodes = await monitor.execute("query-named-block-nodes", {"flat": True})
    assert not [node["node-name"] for node in nodes if node["node-name"].startswith("limosa")]
    await specimen.untouched(both)


def all_steps(both: Pair) -> Iterator[CargoStep]:
    """Every step of a move, in the order of its moments."""
    for when in (*BEFORE_COMMIT, *AFTER_COMMIT):
        yield from (step for _, step in both.steps(when))


def seen(device: object) -> object:
    """A device without the names of its backends."""
    told = msgspec.to_builtins(device)
    return {name: value for name, value in told.items() if name not in {"drive", "netdev", "chardev", "memdev"}}
