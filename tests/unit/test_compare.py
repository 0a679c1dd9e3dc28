"""Two profiles held against each other."""

from typing import Any

from msgspec.structs import replace

from limosa.guest.compare import Difference, compare
from limosa.guest.profile import (
    HostObject,
    PluggedCpu,
    Profile,
    QemuBuild,
    Smp,
)
from limosa.testing.profiles import bare_profile


def profile(seen: dict[str, dict[str, Any]], version: tuple[int, int, int] = (10, 0, 2)) -> Profile:
    return bare_profile(
        qemu=QemuBuild(version=version, package="", binary="/usr/bin/qemu-system-x86_64"),
        smp=Smp(cpus=1, maxcpus=1, topology={"sockets": 1, "cores": 1, "threads": 1}),
        guest_visible=seen,
    )


NIC = {"driver": "e1000", "mac": "52:54:00:00:00:01", "rombar": 1}
SEEN = {"pci.0/03.0": NIC}


def differences(one: Profile, other: Profile) -> list[tuple[str, str, Any, Any]]:
    return [(d.where, d.name, d.source, d.twin) for d in compare(one, other).guest_visible]


def test_a_profile_is_equal_to_itself() -> None:
    comparison = compare(profile(SEEN), profile(SEEN))
    assert (comparison.guest_visible, comparison.host_side) == ((), ())
    assert comparison.compared == 3 + 5


def test_a_property_that_differs_is_named_with_both_values() -> None:
    there = profile({"pci.0/03.0": NIC | {"mac": "52:54:00:00:00:02"}})
    (found,) = compare(profile(SEEN), there).guest_visible
    assert found == Difference("pci.0/03.0", "mac", "52:54:00:00:00:01", "52:54:00:00:00:02")
    assert "mac is '52:54:00:00:00:01' at the source and '52:54:00:00:00:02' in the twin" in str(found)


def test_a_device_that_only_one_side_has_is_seen_from_both_sides() -> None:
    extra = profile(SEEN | {"pci.0/04.0": {"driver": "VGA"}})
    assert differences(extra, profile(SEEN)) == [("pci.0/04.0", "driver", "VGA", "(missing)")]
    assert differences(profile(SEEN), extra) == [("pci.0/04.0", "driver", "(missing)", "VGA")]


def test_a_property_that_only_one_side_has_counts_in_one_version_and_not_across_two() -> None:
    more = {"pci.0/03.0": NIC | {"new": 1}}
    assert differences(profile(SEEN), profile(more)) == [("pci.0/03.0", "new", "(missing)", 1)]
    assert differences(profile(SEEN, (7, 2, 22)), profile(more)) == []


def test_ram_blocks_and_hot_plug_numbers_count_across_versions_too() -> None:
    here = profile({"RAM blocks": {"pc.ram": 1}, "ACPI hot-plug numbers": {"pci.0": 0}}, (7, 2, 22))
    there = profile({"RAM blocks": {"pc.ram": 1, "vga.vram": 2}, "ACPI hot-plug numbers": {"pci.0": 1}})
    assert differences(here, there) == [
        ("ACPI hot-plug numbers", "pci.0", 0, 1),
        ("RAM blocks", "vga.vram", "(missing)", 2),
    ]


def test_two_words_for_the_same_hardware_are_equal_across_versions_only() -> None:
    said_otherwise = {"pci.0/03.0": NIC | {"rombar": -1}}
    assert differences(profile(SEEN, (7, 2, 22)), profile(said_otherwise)) == []
    assert differences(profile(SEEN), profile(said_otherwise)) == [("pci.0/03.0", "rombar", 1, -1)]
    off = {"pci.0/03.0": NIC | {"rombar": 0}}
    assert differences(profile(SEEN, (7, 2, 22)), profile(off)) == [("pci.0/03.0", "rombar", 1, 0)]


def test_registers_that_firmware_programs_are_no_difference() -> None:
    here, there = ({"pci.0/01.3": {"driver": "PIIX4_PM", "smb_io_base": base}} for base in (1792, 45312))
    assert differences(profile(here), profile(there)) == []


def test_topology_levels_that_one_version_does_not_name_are_one() -> None:
    newer = replace(profile(SEEN), smp=Smp(cpus=1, maxcpus=1, topology={"sockets": 1, "cores": 1, "modules": 1}))
    assert differences(profile(SEEN), newer) == []
    wider = replace(profile(SEEN), smp=Smp(cpus=2, maxcpus=2, topology={"sockets": 2}))
    assert [name for _, name, _, _ in differences(profile(SEEN), wider)] == ["vcpus"]


def test_uuid_machine_memory_and_plugged_vcpus_are_the_guests_business() -> None:
    here = profile(SEEN)
    cpu = PluggedCpu(id="c", driver="x", properties={"core-id": 2}, hotplugged=True)
    for changed, name in (
        (replace(here, uuid="v"), "uuid"),
        (replace(here, machine=replace(here.machine, type="pc-q35-7.1")), "machine"),
        (replace(here, memory=replace(here.memory, size=1 << 28)), "memory"),
        (replace(here, plugged_cpus=(cpu,)), "plugged vcpus"),
    ):
        assert [found[1] for found in differences(here, changed)] == [name]


def test_names_on_the_host_are_listed_apart_and_what_limosa_added_is_not() -> None:
    here = profile(SEEN)
    ours = HostObject(id="limosa-tls", type="tls-creds-psk", properties={})
    theirs = HostObject(id="rng0", type="rng-random", properties={"filename": "/dev/random"})
    there = replace(here, name="web1-b", objects=(ours, theirs))
    comparison = compare(here, there)
    assert comparison.guest_visible == ()
    assert [(d.where, d.name) for d in comparison.host_side] == [("guest", "name"), ("objects/rng0", "present")]
