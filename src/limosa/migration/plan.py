"""The plan of a live move: which steps, in which order. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from limosa.cargo.harmless import UNMIGRATABLE
from limosa.cargo.kind import CargoStep, Kind, Offer, Streams, When
from limosa.guest.parts import parts
from limosa.guest.profile import Profile
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
    name_of,
    side_of,
    stage_of,
    summary_of,
)
from limosa.units import Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import StepShown


def unclaimed(profile: Profile, kinds: Mapping[str, Kind]) -> tuple[Finding, ...]:
    """One blocking finding for each part that no kind of cargo carries, or QEMU itself does not, or two kinds do."""
    claims: dict[str, list[str]] = {}
    for kind in kinds.values():
        for part in kind.claims(profile):
            claims.setdefault(part, []).append(kind.name)
    never = {f"device:{device.path}" for device in profile.devices if device.driver in UNMIGRATABLE}
    nobody = [
        Finding(
            severity=Severity.BLOCKS,
            kind="limosa",
            what=f"no kind of cargo carries {_in_words(profile, part)}",
            remedy="unplug it, or install a kind that claims it (entry-point group limosa.cargo)",
            side=Side.SOURCE,
        )
        for part in sorted(parts(profile) - claims.keys() - never)
    ]
    twice = [
        Finding(
            severity=Severity.BLOCKS,
            kind="limosa",
            what=f"{_in_words(profile, part)} is claimed by {' and '.join(names)}",
            remedy="remove one of these kinds: both would move it",
            side=Side.SOURCE,
        )
        for part, names in sorted(claims.items())
        if len(names) > 1
    ]
    return (*unmigratable(profile), *nobody, *twice)


def unmigratable(profile: Profile) -> tuple[Finding, ...]:
    """One blocking finding for each device that would make QEMU refuse, at the very end, to migrate."""
    return tuple(
        Finding(
            severity=Severity.BLOCKS,
            kind="limosa",
            what=f"QEMU cannot migrate {device.driver} ({device.id or device.path}): it does not send its state",
            remedy="unplug it; a disk can be given to the guest as virtio-blk or virtio-scsi instead",
            side=Side.SOURCE,
        )
        for device in profile.devices
        if device.driver in UNMIGRATABLE
    )


def _in_words(profile: Profile, part: str) -> str:
    """A part as its owner knows it: `device lecture (edu, pcie.0/01.0)`."""
    sort, _, name = part.partition(":")
    if sort == "device" and (device := profile.device_at(name)) is not None:
        return f"device {device.id or name} ({device.driver}, {device.position})"
    return f"{sort} {name}".strip()


def rewritten(profile: Profile, offers: Iterable[Offer], kinds: Mapping[str, Kind]) -> Profile:
    """The profile with every host-side name as the destination chose it."""
    for offer in offers:
        profile = kinds[offer.kind].rewrite(profile, offer)
    return profile


def cargo_steps(
    profile: Profile, offers: Iterable[Offer], streams: Streams, kinds: Mapping[str, Kind]
) -> tuple[CargoStep, ...]:
    """All steps that cargo adds, kind by kind."""
    return tuple(step for offer in offers for step in kinds[offer.kind].steps(profile, offer, streams))


def arrange(
    cargo: Iterable[CargoStep], streams: Streams, *, memory: int, monitor: str, channels: int, running: bool
) -> tuple[Step, ...]:
    """Put a live move's steps in their order.

    Args:
        cargo: steps of all kinds, in the order of their kinds.
        streams: where bulk data goes.
        memory: bytes that the destination must have free.
        monitor: limosa's monitor socket of the twin.
        channels: multifd channels, 0 for one plain stream.
        running: False for a guest that is paused and stays so.
    """
    steps = tuple(cargo)

    def when(moment: When) -> tuple[CargoStep, ...]:
        return tuple(step for step in steps if step.when is moment)

    key = (ShareKey(creds=streams.tls_creds),) if streams.tls_creds else ()
    return (
        Reserve(memory=memory),
        *key,
        *when(When.BEFORE_TWIN),
        StartTwin(monitor=monitor),
        CompareTwin(),
        *when(When.COPY),
        *when(When.BEFORE_RAM),
        CheckShape(),
        Precopy(uri=f"tcp:{_bracketed(streams.address)}:{streams.migration_port}", channels=channels),
        # Mirrors finish and source NICs go down here, guest paused, before migrate-continue: after it the
        # source gives up block I/O (QEMU qapi/migration.json, pause-before-switchover).
        *when(When.PAUSED),
        HandOver(),
        Commit(),
        *when(When.BEFORE_CONT),
        ResumeThere(cont=running),
        *when(When.ANNOUNCE),
        RetireSource(),
        *when(When.RETIRE),
        Close(),
    )


def rehearsal(plan: tuple[Step, ...]) -> tuple[Step, ...]:
    """The part of a plan that `limosa plan` really does, and undoes: up to the comparison of the twin."""
    return plan[: plan.index(CompareTwin()) + 1]


def shown(plan: Iterable[Step]) -> tuple[StepShown, ...]:
    """Steps as plan, live view and report show them."""
    return tuple(StepShown(stage=stage_of(s), name=name_of(s), summary=summary_of(s), side=side_of(s)) for s in plan)


def rewrites(before: Profile, after: Profile) -> tuple[tuple[str, str], ...]:
    """Host-side names that differ between the guest and its twin: (where it was, where it will be)."""
    found: list[tuple[str, str]] = []
    _walk(msgspec.to_builtins(before), msgspec.to_builtins(after), found)
    return tuple(dict.fromkeys(found))


def _walk(old: object, new: object, found: list[tuple[str, str]]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            _walk(old.get(key), new.get(key), found)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for one, other in zip(old, new, strict=False):
            _walk(one, other, found)
    elif old != new:
        found.append((str(old), str(new)))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
