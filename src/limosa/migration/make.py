"""How each step is made, and how each is undone: two functions that cover all steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from limosa.cargo.kind import CargoStep, Kind
from limosa.migration.carry_out import Deed, Undeed
from limosa.migration.departure import Departure
from limosa.migration.ends import Destination, ListenAsk, ReserveAsk
from limosa.migration.fault_points import BEFORE, reach
from limosa.migration.news import macs
from limosa.migration.steps import (
    CheckShape,
    Close,
    Commit,
    CompareTwin,
    HandOver,
    Precopy,
    Reserve,
    ResumeThere,
    RetireSource,
    ShareKey,
    StartTwin,
    Step,
)
from limosa.units import Side

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of one move, and the kinds that know its cargo."""

    source: Departure
    destination: Destination
    kinds: Mapping[str, Kind]


async def make(step: Step, ends: Ends) -> Mapping[str, Any]:
    """Make one step; returns facts for the report.

    Raises:
        LimosaError: the step could not be made; it may have happened in part.
    """
    source, destination = ends.source, ends.destination
    match step:
        case CargoStep(side=Side.DESTINATION):
            return await destination.make(step)
        case CargoStep():
            return await ends.kinds[step.kind].make(step, source)
        case Reserve():
            return await _reserve(step, ends)
        case ShareKey(creds=creds):
            await destination.keep_key(await source.make_key(creds))
        case StartTwin():
            return await source.start_twin(destination)
        case CompareTwin():
            return source.compare_twin()
        case CheckShape():
            return await source.check_shape()
        case Precopy(uri=uri, channels=channels):
            ask = ListenAsk(move=source.move, uri=uri, channels=channels, tls_creds=source.streams.tls_creds)
            await destination.listen(ask)
            return await source.precopy(uri, channels)
        case HandOver():
            return await source.hand_over(destination)
        case Commit():
            grant = source.give_up()
            await reach(source.move, "grant", BEFORE)
            await destination.take_over(grant)
        case ResumeThere():
            return await source.resume_there(destination)
        case RetireSource():
            await source.quit()
        case Close():
            source.put_away()
            return await destination.close(source.blackout_ms)
        case _:
            assert_never(step)
    return NOTHING


async def unmake(step: Step, ends: Ends) -> None:
    """Undo one step. Safe to repeat, and safe if the step never happened."""
    source, destination = ends.source, ends.destination
    match step:
        case CargoStep(side=Side.DESTINATION):
            await destination.unmake(step)
        case CargoStep():
            await ends.kinds[step.kind].unmake(step, source)
        case Reserve():
            source.put_away()
            source.heard = str((await destination.close()).get("stderr", ""))
        case ShareKey(creds=creds):
            await source.forget_key(creds)
        case StartTwin():
            await destination.stop_twin()
        case Precopy() | HandOver():
            await source.call_back(destination)
        case CompareTwin() | CheckShape() | Commit() | ResumeThere() | RetireSource() | Close():
            pass
        case _:
            assert_never(step)


async def _reserve(step: Reserve, ends: Ends) -> Mapping[str, Any]:
    source = ends.source
    source.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    await ends.destination.reserve(
        ReserveAsk(
            move=source.move,
            request=source.request,
            uuid=source.profile.uuid,
            name=source.profile.name,
            memory=step.memory,
            epoch=source.epoch,
            binary=source.answer.binary,
            monitor=source.answer.monitor,
            streams=source.streams,
            steps=tuple(s for s in source.steps if isinstance(s, CargoStep) and s.side is Side.DESTINATION),
            macs=macs(source.profile),
        )
    )
    return NOTHING


def deeds(ends: Ends) -> tuple[Deed, Undeed]:
    """`make` and `unmake` at these ends."""

    async def do(step: Step) -> Mapping[str, Any]:
        return await make(step, ends)

    async def undo(step: Step) -> None:
        await unmake(step, ends)

    return do, undo
