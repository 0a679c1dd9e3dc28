"""Fleets for tests, benchmarks and simulations, made from what real processors can do. Pure, and the same for a seed.

Racks hold hosts of one kind. A guest sees the flags that its host's processor shares with another of the same vendor,
as guests do that are started with a baseline for a group; a few see all that their host has.
"""

import random
import uuid
from collections.abc import Iterator, Sequence

import msgspec

from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.cpu.flags import CpuFlags
from limosa.fleet.inventory import Guest, GuestId, Host, Inventory, Limits
from limosa.units import GIB, MIB, Bytes, BytesPerSecond, GuestName, HostName

RACK = 20
"""Hosts in a rack."""
SHARED = "ceph"
LABEL = "gpu"
NOT_BY_DEFAULT = CpuFlags.of("invtsc", "vmx", "svm")
"""Flags that QEMU gives no guest that does not ask for them."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a generated fleet is like. Shares are of 1."""

    hosts: int
    guests_per_host: int = 10
    fill: float = 0.6
    """Share of all vCPUs that guests have."""
    unevenness: float = 0.2
    """How far a host may be from `fill`, either way."""
    spare: int = 0
    """Empty hosts beside the others; the last ones."""
    kinds: int = 12
    """Kinds of processors."""
    local_disks: float = 0.3
    """Share of guests whose disks are on their host."""
    grouped: float = 0.2
    """Share of guests that keep away from two others."""
    pinned: float = 0.02
    """Share of guests that need a label."""
    blocked: float = 0.005
    """Share of guests that a device of theirs keeps where they are."""
    passthrough: float = 0.05
    """Share of guests that see all flags of their host."""
    overcommit: float = 1.0
    seed: int = 1


def generate(processors: Sequence[HostCpu], shape: Shape) -> Inventory:
    """A fleet.

    Args:
        processors: to choose from; those on which no guest could run at all are left out.
        shape: what it shall be like.

    Raises:
        ValueError: no processor can run guests.
    """
    dice = random.Random(shape.seed)  # noqa: S311 - the same fleet for the same seed, not a secret
    able = [msgspec.structs.replace(cpu, host="") for cpu in processors if {"vmx", "svm"} & set(cpu.flags)]
    if not able:
        raise ValueError("no processor among them can run guests (vmx, svm)")
    kinds = dice.sample(able, min(shape.kinds, len(able)))
    hosts = tuple(_hosts(dice, kinds, shape))
    guests = tuple(_guests(dice, hosts[: shape.hosts], _GuestCpus(dice, kinds), shape))
    limits = Limits(overcommit=shape.overcommit)
    return Inventory(hosts=_with_disks(hosts, guests), guests=_grouped(dice, guests, shape), limits=limits)


def _hosts(dice: random.Random, kinds: Sequence[HostCpu], shape: Shape) -> Iterator[Host]:
    for number in range(shape.hosts + shape.spare):
        if number % RACK == 0:
            kind = dice.choice(kinds)
            cores = dice.choice((32, 48, 64, 64, 96, 128))
            link = dice.choice((1.25e9, 3.125e9))
        yield Host(
            name=HostName(f"r{number // RACK:03}-h{number % RACK:02}"),
            cores=cores,
            memory=Bytes(int(cores * shape.overcommit) * 8 * GIB),
            disk=Bytes(cores * 100 * GIB),
            disk_free=Bytes(cores * 100 * GIB),
            cpu=kind,
            link=BytesPerSecond(link),
            rack=f"r{number // RACK:03}",
            labels=(LABEL,) if number % 10 == 0 else (),
            storages=(SHARED,),
            networks=("br0",),
            watts=40.0 + 2.0 * cores,
            price_per_hour=0.004 * cores,
        )


class _GuestCpus:
    """What guests see, one value for each pair of kinds."""

    def __init__(self, dice: random.Random, kinds: Sequence[HostCpu]) -> None:
        self._dice, self._kinds = dice, kinds
        self._known: dict[tuple[int, int], GuestCpu] = {}

    def on(self, cpu: HostCpu, passthrough: float) -> GuestCpu:
        mates = [kind for kind in self._kinds if kind.vendor == cpu.vendor]
        other = cpu if self._dice.random() < passthrough else self._dice.choice(mates)
        key = (id(cpu), id(other))
        if key not in self._known:
            bits = min(filter(None, (cpu.phys_bits, other.phys_bits)), default=None)
            self._known[key] = GuestCpu(
                guest="",
                model="host" if other is cpu else "baseline",
                flags=((cpu.mask & other.mask) - NOT_BY_DEFAULT).names(),
                accel="kvm",
                machine="pc-q35-7.2",
                qemu=(7, 2, 0),
                vendor=cpu.vendor,
                phys_bits=bits,
            )
        return self._known[key]


def _guests(dice: random.Random, hosts: Sequence[Host], cpus: _GuestCpus, shape: Shape) -> Iterator[Guest]:
    for host in hosts:
        assert host.cpu is not None
        full = min(1.0, shape.fill + shape.unevenness * (2 * dice.random() - 1))
        memory_left = int(host.memory)
        for vcpus in _sizes(dice, int(host.cores * shape.overcommit * full), shape.guests_per_host):
            memory = min(memory_left, vcpus * dice.choice((2, 4, 4, 8)) * GIB)
            if memory < GIB:
                break
            memory_left -= memory
            local = dice.random() < shape.local_disks
            yield Guest(
                uuid=GuestId(str(uuid.UUID(int=dice.getrandbits(128), version=4))),
                name=GuestName(f"{host.name}-{dice.getrandbits(32):08x}"),
                host=host.name,
                vcpus=vcpus,
                memory=Bytes(memory),
                disk=Bytes(dice.choice((20, 40, 40, 80, 200)) * GIB if local else 0),
                storages=() if local else (SHARED,),
                networks=("br0",),
                cpu=cpus.on(host.cpu, shape.passthrough),
                load=round(vcpus * dice.betavariate(2, 4), 2),
                dirty_rate=BytesPerSecond(round(dice.lognormvariate(3.0, 1.2) * MIB)),
                pin_labels=(LABEL,) if LABEL in host.labels and dice.random() < 10 * shape.pinned else (),
                priority=dice.choice((0, 0, 0, 0, 1, 2)),
                blocked=("vfio-pci: a device of the host",) if dice.random() < shape.blocked else (),
                epoch=1,
                home=host.name,
            )


def _sizes(dice: random.Random, vcpus: int, count: int) -> Iterator[int]:
    """Split vCPUs among guests, a few of which are large."""
    weights = [dice.choice((1, 1, 2, 2, 2, 4, 4, 8)) for _ in range(count)]
    left, weight_left = vcpus, sum(weights)
    for weight in weights:
        size = max(1, round(left * weight / weight_left))
        if left <= 0:
            return
        yield min(size, left)
        left -= size
        weight_left -= weight


def _with_disks(hosts: Sequence[Host], guests: Sequence[Guest]) -> tuple[Host, ...]:
    used = dict.fromkeys((host.name for host in hosts), 0)
    for guest in guests:
        used[guest.host] += guest.disk
    return tuple(
        msgspec.structs.replace(host, disk_free=Bytes(max(0, host.disk_free - used[host.name]))) for host in hosts
    )


def _grouped(dice: random.Random, guests: Sequence[Guest], shape: Shape) -> tuple[Guest, ...]:
    """Three guests of three hosts make a group."""
    found = list(guests)
    if not found:
        return ()
    for number in range(int(len(found) * shape.grouped / 3)):
        trio = [dice.randrange(len(found)) for _ in range(3)]
        if len({found[guest].host for guest in trio}) == 3 and not any(found[guest].groups for guest in trio):
            for guest in trio:
                found[guest] = msgspec.structs.replace(found[guest], groups=(f"group-{number}",))
    return tuple(found)
