"""What must be true when a case has come to rest, and the faults that cases are made of."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from limosa.testing.model.qemu import ModelQemu
from limosa.testing.model.world import Fault, World
from limosa.units import Side
from limosa.wire.hooks import GuestNews, HookEvent
from limosa.wire.moves import MoveState

BOTH_WAYS = (("a", "b"), ("b", "a"))


def complaints(world: World) -> tuple[str, ...]:
    """Every promise that a case broke; nothing for a good one."""
    return (*world.complaints, *_ownership(world), *_strays(world), *_reports(world), *_news(world))


def _ownership(world: World) -> Iterator[str]:
    owner = world.owner()
    alive = [qemu for host in world.hosts.values() for qemu in host.qemus if qemu.alive]
    wanted = {"running"} if world.setting.running else {"paused", "postmigrate"}
    settled = [qemu for qemu in alive if qemu.status in wanted and not qemu.frozen]
    if len(alive) > 1:
        yield f"{len(alive)} QEMUs are left: {[(qemu.host, qemu.status) for qemu in alive]}"
    if len(settled) == 1:
        if settled[0].host != owner:
            yield f"{owner} owns the guest, but it is on {settled[0].host}"
        yield from _whole(settled[0])
    elif not _was_killed(world, owner):
        yield f"nobody has the guest: {[(qemu.host, qemu.status) for qemu in alive]}, {owner} owns it"
    for token, times in world.grants.items():
        if times > 1:
            yield f"the grant {token} was used {times} times"
    yield from _disks(world, owner)


def _was_killed(world: World, owner: str) -> bool:
    """Whether the guest died with its QEMU. A twin that was never told to run is not the guest yet.

    A guest that was paused is never told to run: it has arrived when its move has, and nothing in its QEMU tells.
    """
    mine = [qemu for qemu in world.hardware(owner).qemus if qemu in world.killed]
    unclear = owner in world.forgetful or not world.setting.running
    return any(qemu is world.guest or qemu.told_to_run or (qemu.ram is not None and unclear) for qemu in mine)


def _whole(qemu: ModelQemu) -> Iterator[str]:
    if qemu.links_down:
        yield f"the links {sorted(qemu.links_down)} of the guest on {qemu.host} are down"
    if qemu.mirrors or qemu.exports or qemu.objects:
        yield f"left in the QEMU on {qemu.host}: {qemu.mirrors} {qemu.exports} {qemu.objects}"


def _disks(world: World, owner: str) -> Iterator[str]:
    """The owner's disks have every acknowledged write, also where the guest was killed."""
    here = world.hardware(owner)
    main = world.guest if owner == "a" else next((q for q in reversed(here.qemus) if q.ram is not None), None)
    if main is None:
        return
    held = [image.writes for image in main.disks]
    if held != world.acknowledged:
        yield f"writes are lost: the disks on {owner} have {held} of {world.acknowledged}"
    for image in main.disks:
        if image not in list(here.files.values()):
            yield f"a disk of the guest on {owner} is not there any more"


def _strays(world: World) -> Iterator[str]:
    owner = world.owner()
    for name, host in world.hosts.items():
        images = [path for path, image in host.files.items() if path.endswith(".new")]
        if images:
            yield f"half-made images are left on {name}: {images}"
        if len(host.files) > (world.setting.disks if name == owner else 0):
            yield f"files are left on {name}: {sorted(host.files)}"
        if len(host.taps) > (world.setting.nics if name == owner else 0):
            yield f"taps are left on {name}: {sorted(host.taps)}"
        if noted := host.store.noted():
            yield f"the ledger of {name} still has {[(thing.kind, thing.name) for thing in noted]}"
        if moves := list((host.directory / "moves").glob("*")):
            yield f"directories are left on {name}: {[move.name for move in moves]}"


def _reports(world: World) -> Iterator[str]:
    owner = world.owner()
    twins = [qemu for qemu in world.hardware("b").qemus if qemu.executed or qemu.alive]
    for status in world.statuses:
        if status.state is MoveState.COMPLETED and world.setting.running and not twins:
            yield "a success was reported of a guest that never ran there"
        if status.state is MoveState.COMPLETED and owner == "a":
            yield "a success was reported, but the guest is at the source"
        if status.guest_runs is Side.DESTINATION and owner == "a":
            yield f"the report says that it runs at the destination: {status.error}"
        if status.guest_runs is Side.SOURCE and owner == "b" and status.state.over:
            yield f"the report says that it runs at the source: {status.error}"


def told(world: World) -> tuple[tuple[HookEvent, GuestNews], ...]:
    """Everything that the hosts' hooks will hear, host by host."""
    posted = [each for host in world.hosts.values() for each in host.store.outbox.after(0)]
    events = [msgspec.json.decode(each.body, type=HookEvent) for each in posted]
    return tuple((event, msgspec.convert(event.data, GuestNews)) for event in events)


def _news(world: World) -> Iterator[str]:
    """Each move is told of once at most, and whoever goes by the highest epoch knows the owner."""
    owner, news = world.owner(), [data for _, data in told(world)]
    moves = [data.move for data in news]
    if len(set(moves)) != len(moves):
        yield f"hooks hear of a move twice: {news}"
    if owner != "a" and not any(data.host == owner for data in news):
        yield f"hooks never hear that {owner} owns the guest"
    latest = max((data.epoch for data in news), default=0)
    if wrong := [data for data in news if data.epoch == latest and data.host != owner]:
        yield f"{owner} owns the guest, but hooks hear otherwise: {wrong}"


def _both(*deeds: Fault) -> Fault:
    def happen(world: World) -> None:
        for deed in deeds:
            deed(world)

    return happen


def _on(host: str) -> Iterator[tuple[str, Fault]]:
    yield f"agent {host} killed", lambda world: world.kill_agent(host, back=1)
    yield f"agent {host} killed for long", lambda world: world.kill_agent(host, back=40)
    yield f"plug of {host}", lambda world: world.pull_plug(host, back=2)
    yield f"plug of {host} for long", lambda world: world.pull_plug(host, back=60)
    yield f"state disk of {host} refuses", lambda world: world.refuse_writes(host, back=0.001)
    yield f"state disk of {host} refuses for long", lambda world: world.refuse_writes(host, back=60)
    yield f"QEMU frozen on {host}", lambda world: world.freeze(host, back=3)
    yield f"QEMU frozen on {host} for long", lambda world: world.freeze(host, back=100)


def _each() -> Iterator[tuple[str, Fault]]:
    for host in ("a", "b"):
        yield from _on(host)
    yield "both agents killed", _both(lambda w: w.kill_agent("a", back=1), lambda w: w.kill_agent("b", back=3))
    yield "both plugs", _both(lambda w: w.pull_plug("a", back=3), lambda w: w.pull_plug("b", back=1))
    yield "guest's QEMU killed", lambda world: world.kill_guest()
    yield "twin killed", lambda world: world.kill_twin()
    yield "peer link reset", lambda world: world.break_link()
    yield "peer link cut briefly", lambda world: world.cut_link(*BOTH_WAYS, back=2)
    yield "peer link cut", lambda world: world.cut_link(*BOTH_WAYS, back=30)
    yield "peer link cut one way", lambda world: world.cut_link(("a", "b"), back=30)
    yield "peer link cut the other way", lambda world: world.cut_link(("b", "a"), back=30)
    yield "migration link cut briefly", lambda world: world.cut_data(back=2)
    yield "migration link cut", lambda world: world.cut_data(back=120)
    yield "both links cut", _both(lambda w: w.cut_link(*BOTH_WAYS, back=20), lambda w: w.cut_data(back=30))
    yield "abort", lambda world: world.abort()
    yield "refused", lambda world: world.fail()
    yield "call repeated", lambda world: world.repeat_call(after=0.0)
    yield "call repeated later", lambda world: world.repeat_call(after=0.004)
    yield "call repeated after the move", lambda world: world.repeat_call(after=60)
    yield "link reset, and the twin killed", _both(lambda w: w.break_link(), lambda w: w.kill_twin())
    yield (
        "link reset, and a late call",
        _both(lambda w: w.break_link(), lambda w: w.repeat_call(after=2)),
    )
    yield (
        "link cut, and a late call",
        _both(lambda w: w.cut_link(("a", "b"), back=20), lambda w: w.repeat_call(after=9)),
    )


FAULTS: Mapping[str, Callable[[World], None]] = MappingProxyType(dict(_each()))
"""Everything that can go wrong at a point, by name."""
