from typing import Any

import pytest
from msgspec.structs import replace

from limosa.cpu.compat import CpuFinding, Severity, compatible, missing
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.flags import CpuFlags

FLAGS = CpuFlags.of("fpu", "sse2", "avx", "avx2", "xsave", "xcr0-x87", "xcr0-sse", "xcr0-avx").names()
GUEST = GuestCpu(
    guest="web1",
    model="Skylake-Server-v4",
    flags=FLAGS,
    accel="kvm",
    machine="pc-q35-10.0",
    qemu=(10, 0, 2),
    vendor="GenuineIntel",
    family=6,
    number=85,
    phys_bits=40,
)
HOST = HostCpu(
    host="b",
    source=Source.QEMU,
    flags=FLAGS,
    vendor="GenuineIntel",
    family=6,
    model=85,
    phys_bits=46,
    tsc_scaling=True,
    accel="kvm",
    qemu=(10, 0, 2),
    machines=("pc-q35-10.0", "pc-q35-7.2"),
)


def without(*names: str) -> tuple[str, ...]:
    return (CpuFlags.sort(FLAGS)[0] - CpuFlags.of(*names)).names()


def test_a_guest_runs_where_all_that_it_sees_is_there() -> None:
    assert compatible(GUEST, HOST) == ()
    assert compatible(GUEST, replace(HOST, flags=(*FLAGS, "avx512f", "bmi1"))) == ()


def test_every_missing_flag_is_named_and_blocks() -> None:
    (found,) = compatible(GUEST, replace(HOST, flags=without("avx2", "sse2")))
    assert found.severity is Severity.BLOCKS
    assert found.what == "b lacks sse2, avx2 of the flags that web1 sees"
    assert found.flags == ("sse2", "avx2")
    assert found.consent is None
    assert "limosa hosts --fits web1" in found.remedy
    assert "limosa cpu baseline" in found.remedy


def test_areas_are_named_only_where_nothing_else_is_missing() -> None:
    (both,) = compatible(GUEST, replace(HOST, flags=without("avx", "xcr0-avx")))
    assert both.flags == ("avx",)
    (area,) = compatible(GUEST, replace(HOST, flags=without("xcr0-avx")))
    assert area.flags == ("xcr0-avx",)


def test_flags_that_only_microcode_lacks_are_mended_by_microcode() -> None:
    guest = replace(GUEST, flags=(*FLAGS, "md-clear", "ssbd"))
    (found,) = compatible(guest, HOST)
    assert found.remedy.startswith("update the microcode and the kernel of b; or ")
    (mixed,) = compatible(guest, replace(HOST, flags=without("avx2")))
    assert mixed.remedy.startswith("choose a host")


def test_flags_that_the_configuration_takes_away_say_so() -> None:
    taken, note = compatible(GUEST, replace(HOST, flags=without("avx2"), removed=("avx2",)))
    assert (taken.severity, note.severity) == (Severity.BLOCKS, Severity.NOTE)
    assert taken.cause == "its agent.toml takes them away (cpu.remove)"
    partly, _ = compatible(GUEST, replace(HOST, flags=without("avx2", "sse2"), removed=("avx2",)))
    assert partly.cause.endswith("its agent.toml takes avx2 away (cpu.remove)")


def test_what_a_source_does_not_tell_is_a_warning_and_never_missing() -> None:
    paper = replace(HOST, source=Source.CPUINFO, flags=without("avx2"), untold=("avx2",), accel="", qemu=None)
    unsure, note = compatible(GUEST, paper)
    assert (unsure.severity, unsure.flags, note.severity) == (Severity.WARNING, ("avx2",), Severity.NOTE)
    assert not missing(GUEST, paper)


def test_names_that_nobody_knows_are_reported() -> None:
    (found,) = compatible(replace(GUEST, unknown=("avx99",)), HOST)
    assert (found.severity, found.flags) == (Severity.WARNING, ("avx99",))
    assert "avx99" in found.what


def only(guest: dict[str, Any], host: dict[str, Any]) -> CpuFinding:
    (found,) = compatible(replace(GUEST, **guest), replace(HOST, **host))
    assert found.cause
    assert found.remedy
    return found


INVTSC = {"flags": (*FLAGS, "invtsc")}
FAST = {"flags": (*FLAGS, "invtsc"), "tsc_scaling": False}
BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any], Severity, str, str | None]] = {
    "accelerator": ({}, {"accel": "tcg"}, Severity.BLOCKS, "would run it under tcg", None),
    "machine type": ({"machine": "pc-q35-9.9"}, {}, Severity.BLOCKS, "does not know the machine type pc-q35-9.9", None),
    "older qemu": ({}, {"qemu": (9, 2, 0)}, Severity.NOTE, "older than its own 10.0.2", None),
    "model host": ({"model": "host"}, {}, Severity.NOTE, "means something else on each host", None),
    "migratable": ({"migratable": False}, {}, Severity.WARNING, "migratable=off", None),
    "hv-passthrough": ({"hyperv": ("hv-passthrough",)}, {}, Severity.BLOCKS, "hv-passthrough", None),
    "addresses": ({"phys_bits": 52}, {}, Severity.BLOCKS, "52 bits of physical addresses; b has 46", "cpu-phys-bits"),
    "vendor": ({}, {"vendor": "AuthenticAMD"}, Severity.BLOCKS, "b has one of AuthenticAMD", "cpu-vendor"),
    "pmu": ({"pmu": True}, {"model": 106}, Severity.WARNING, "performance counters", None),
    "nested": ({"flags": (*FLAGS, "vmx")}, {"flags": (*FLAGS, "vmx")}, Severity.WARNING, "guests of its own", None),
    "invtsc without frequency": (INVTSC, INVTSC, Severity.BLOCKS, "its tsc-frequency was not set", None),
    "another tsc": (
        INVTSC | {"tsc_khz": 2_600_000},
        FAST | {"tsc_khz": 2_700_000},
        Severity.BLOCKS,
        "2700000 kHz",
        None,
    ),
    "unknown tsc": (INVTSC | {"tsc_khz": 2_600_000}, FAST, Severity.WARNING, "the rate of its TSC (invtsc)", None),
    "hv-time": ({"hyperv": ("hv-time",)}, {"tsc_scaling": None}, Severity.WARNING, "its TSC (hv-time)", None),
}


@pytest.mark.parametrize(("guest", "host", "severity", "word", "consent"), BESIDE.values(), ids=BESIDE)
def test_what_no_mask_holds_is_a_finding_of_its_own(
    guest: dict[str, Any], host: dict[str, Any], severity: Severity, word: str, consent: str | None
) -> None:
    found = only(guest, host)
    assert (found.severity, found.consent) == (severity, consent)
    assert word in found.what


QUIET: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same tsc within its tolerance": (INVTSC | {"tsc_khz": 2_600_000}, FAST | {"tsc_khz": 2_600_500}),
    "another tsc that is scaled": (INVTSC | {"tsc_khz": 2_600_000}, FAST | {"tsc_scaling": True}),
    "newer qemu": ({"qemu": (7, 2, 22), "machine": "pc-q35-7.2"}, {}),
    "another patch level": ({"qemu": (10, 0, 9)}, {}),
    "another vendor under tcg": ({"accel": "tcg"}, {"accel": "tcg", "vendor": "AuthenticAMD"}),
    "the same pmu": ({"pmu": True}, {}),
    "hv flags that depend on nothing": ({"hyperv": ("hv-relaxed", "hv-vapic")}, {}),
}


@pytest.mark.parametrize(("guest", "host"), QUIET.values(), ids=QUIET)
def test_what_does_not_matter_is_not_mentioned(guest: dict[str, Any], host: dict[str, Any]) -> None:
    assert compatible(replace(GUEST, **guest), replace(HOST, **host)) == ()


def test_an_enlightened_vmcs_needs_intel() -> None:
    found = compatible(replace(GUEST, hyperv=("hv-evmcs",)), replace(HOST, vendor="AuthenticAMD"))
    assert {finding.severity for finding in found} == {Severity.BLOCKS}
    assert any("hv-evmcs" in finding.what for finding in found)


def test_what_blocks_comes_first() -> None:
    found = compatible(
        replace(GUEST, model="host", migratable=False, phys_bits=52), replace(HOST, flags=without("avx2"))
    )
    assert [finding.severity.value for finding in found] == ["blocks", "blocks", "warning", "note"]
