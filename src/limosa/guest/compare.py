"""Hold a twin against its original: what the guest could notice, and what only the host sees."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from limosa.guest.parts import OURS
from limosa.guest.profile import HOTPLUG_NUMBERS, RAM_BLOCKS, Memory, Profile, Smp, Value
from limosa.guest.wordlist import names

MISSING = "(missing)"


class Difference(msgspec.Struct, frozen=True):
    """One property that is not the same at both ends."""

    where: str
    """Bus position or section."""
    name: str
    source: Value
    twin: Value

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.where}: {self.name} is {self.source!r} at the source and {self.twin!r} in the twin"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found; `compared` counts the guest-visible properties that were held against each other."""

    compared: int
    guest_visible: tuple[Difference, ...]
    host_side: tuple[Difference, ...]


# The same hardware under different words in different QEMU versions: property -> why.
EQUIVALENT: dict[str, str] = {
    "rombar": "1 and -1 both mean that the device has a ROM BAR (QEMU hw/pci/pci.c; -1 since 9.2)",
    "ht": "set from the topology: in CPUID code before 10.0, in the flag since (QEMU target/i386/cpu.c)",
    "cmp-legacy": "as ht",
    "cmp_legacy": "as ht",
}
_SAME_ROM_BAR = frozenset({1, -1})

# Not properties but things: one that only one side has is a difference between any two versions.
BOTH_WAYS = frozenset({HOTPLUG_NUMBERS, RAM_BLOCKS})

# Change while a guest runs: registers that firmware or the guest programs, and runtime states. They arrive with the
# device state; a twin that waits has them as at power-on.
VOLATILE = names("""
    smb_io_base pm_io_base gpe0_blk MCFG mcfg_size pci-hole-start pci-hole-end pci-hole64-start pci-hole64-end
    guest-stats guest-stats-polling-interval attached big-endian-framebuffer realized busnr cpu-hotplug-legacy
""")


def compare(source: Profile, twin: Profile) -> Comparison:
    """Compare two profiles of one machine, in both directions. Pure.

    Devices are matched by bus position. Between two QEMU versions, properties that only one of them knows
    are left out; a device that only one machine has never is.
    """
    same_build = source.qemu.version == twin.qemu.version
    compared, seen = 0, []
    for where in sorted(source.guest_visible.keys() | twin.guest_visible.keys()):
        here, there = source.guest_visible.get(where), twin.guest_visible.get(where)
        if here is None or there is None:
            seen.append(Difference(where, "driver", _driver(here), _driver(there)))
            continue
        either = same_build or where in BOTH_WAYS
        told = (here.keys() | there.keys() if either else here.keys() & there.keys()) - VOLATILE
        if where == HOTPLUG_NUMBERS:
            # A bridge that was plugged into the running source has none until the guest reboots; its twin has one.
            told &= here.keys()
        compared += len(told)
        seen.extend(_differences(where, sorted(told), here, there, across=not same_build))
    identity = list(_identity(source, twin))
    return Comparison(
        compared=compared + 5, guest_visible=(*seen, *identity), host_side=tuple(_host_side(source, twin))
    )


def _driver(seen: Mapping[str, Value] | None) -> Value:
    return MISSING if seen is None else seen.get("driver", "present")


def _differences(
    where: str, told: list[str], here: Mapping[str, Value], there: Mapping[str, Value], *, across: bool
) -> Iterator[Difference]:
    for name in told:
        one, other = here.get(name, MISSING), there.get(name, MISSING)
        if one != other and not (across and equivalent(name, one, other)):
            yield Difference(where, name, one, other)


def equivalent(name: str, one: Value, other: Value) -> bool:
    """Whether two different values of two QEMU versions mean the same hardware."""
    if name == "rombar":
        return {one, other} <= _SAME_ROM_BAR
    return name in EQUIVALENT


def _identity(source: Profile, twin: Profile) -> Iterator[Difference]:
    sides = [
        ("uuid", source.uuid, twin.uuid),
        ("machine", source.machine.type, twin.machine.type),
        ("memory", _memory(source.memory), _memory(twin.memory)),
        ("vcpus", _vcpus(source.smp), _vcpus(twin.smp)),
        ("plugged vcpus", _plugged(source), _plugged(twin)),
    ]
    for name, one, other in sides:
        if one != other:
            yield Difference("guest", name, one, other)


def _memory(memory: Memory) -> Value:
    return {"size": memory.size, "slots": memory.slots, "max_size": memory.max_size}


def _vcpus(smp: Smp) -> Value:
    """Topology without the levels that are 1: a QEMU version names only those that it knows."""
    return {"cpus": smp.cpus, "maxcpus": smp.maxcpus} | {name: n for name, n in smp.topology.items() if n != 1}


def _plugged(profile: Profile) -> Value:
    return sorted(sorted(cpu.properties.items()) for cpu in profile.plugged_cpus)


def _host_side(source: Profile, twin: Profile) -> Iterator[Difference]:
    if source.name != twin.name:
        yield Difference("guest", "name", source.name, twin.name)
    if source.qemu != twin.qemu:
        yield Difference("host", "qemu", msgspec.to_builtins(source.qemu), msgspec.to_builtins(twin.qemu))
    if source.machine.accel != twin.machine.accel:
        yield Difference("host", "accel", source.machine.accel, twin.machine.accel)
    sections = [
        *(
            (section, _by(getattr(source, section), key), _by(getattr(twin, section), key))
            for section, key in _SECTIONS
        ),
        ("drives", _drives(source), _drives(twin)),
    ]
    for section, here, there in sections:
        for name in sorted(here.keys() | there.keys()):
            yield from _item(f"{section}/{name}", here.get(name), there.get(name))


def _by(items: Iterable[msgspec.Struct], key: str) -> dict[str, msgspec.Struct]:
    """What the guest's owner has, by name; what limosa added to one of the two is no difference."""
    return {getattr(item, key): item for item in items if not getattr(item, key).startswith(OURS)}


def _drives(profile: Profile) -> dict[str, msgspec.Struct]:
    """Drives by where their device sits: its path may differ."""
    positions = {device.path: device.position for device in profile.devices}
    return {positions[drive.device]: drive for drive in profile.drives if drive.device in positions}


_SECTIONS = (("objects", "id"), ("chardevs", "id"), ("block_nodes", "node_name"), ("netdevs", "id"))
_NAMES_OF_A_PROCESS = frozenset({"live_name", "used_by", "hotplugged", "unknown", "device", "backend"})


def _item(where: str, one: msgspec.Struct | None, other: msgspec.Struct | None) -> Iterator[Difference]:
    if one is None or other is None:
        yield Difference(where, "present", one is not None, other is not None)
        return
    here, there = msgspec.to_builtins(one), msgspec.to_builtins(other)
    for name in here:
        if name not in _NAMES_OF_A_PROCESS and here[name] != there[name]:
            yield Difference(where, name, here[name], there[name])
