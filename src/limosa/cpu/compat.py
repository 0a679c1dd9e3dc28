"""Whether a guest can go on, without a reboot, on another host's processor. Pure.

A program in the guest has loaded code for the flags that it saw at boot; on a processor without one of them it crashes.
That decides first; but two processors with the same flags can differ in what no mask holds, and so can two QEMUs.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.flags import CpuFlags


class Severity(StrEnum):
    """What a finding means, in the words that checks of a move use."""

    NOTE = "note"
    WARNING = "warning"
    BLOCKS = "blocks"


class CpuFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that stands between a guest and a host."""

    severity: Severity
    what: str
    cause: str
    """Why it matters."""
    remedy: str
    consent: str | None = None
    """The word with which an operator may allow it; None where nothing can be allowed."""
    flags: tuple[str, ...] = ()
    """Names of the flags that it is about."""


MICROCODE = CpuFlags.of(
    *("spec-ctrl", "stibp", "ssbd", "md-clear", "flush-l1d", "arch-capabilities", "fb-clear", "rfds-clear", "tsx-ctrl"),
    *("ibpb", "ibrs", "amd-stibp", "amd-ssbd", "ibpb-brtype", "sbpb"),
)
"""Flags that a processor gets from its microcode, against faults found after it was made."""

TSC_TOLERANCE = 250e-6
"""KVM takes two TSC frequencies for the same when they differ by less (Linux arch/x86/kvm/x86.c, tsc_tolerance_ppm)."""

_BROAD_MODELS = frozenset({"host", "max"})


def missing(guest: GuestCpu, host: HostCpu) -> CpuFlags:
    """Flags that the guest sees and the host is known not to have."""
    return guest.mask - host.mask - host.unsure


def compatible(guest: GuestCpu, host: HostCpu) -> tuple[CpuFinding, ...]:
    """Everything that is to be said about running this guest on that host, what blocks first."""
    found = (
        *_flags(guest, host),
        *_unknown(guest, host),
        *_program(guest, host),
        *_model(guest),
        *_hyperv(guest, host),
        *_addresses(guest, host),
        *(_on_hardware(guest, host) if guest.accel != "tcg" else ()),
        *_source(host),
    )
    order = list(reversed(Severity))
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _flags(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    lacks = missing(guest, host)
    settable = CpuFlags.of(*(name for name in lacks.names() if not name.startswith(("xcr0-", "xss-"))))
    if lacks:
        # Areas of XSAVE follow from other flags: they are named where nothing else tells of them.
        named = settable or lacks
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{host.host} lacks {named} of the flags that {guest.guest} sees",
            cause=_why_missing(named, host),
            remedy=_remedy(guest, host, named),
            flags=named.names(),
        )
    unsure = (guest.mask - host.mask) & host.unsure
    if unsure:
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"whether {host.host} has {unsure} is not known",
            cause=f"{_SOURCES[host.source]} does not tell",
            remedy="ask its agent, which asks the QEMU that would run the guest: `limosa cpu show HOST`",
            flags=unsure.names(),
        )


def _why_missing(lacks: CpuFlags, host: HostCpu) -> str:
    taken = lacks & CpuFlags.sort(host.removed)[0]
    if taken == lacks:
        return "its agent.toml takes them away (cpu.remove)"
    too = f"; its agent.toml takes {taken} away (cpu.remove)" if taken else ""
    return "programs that use them would crash there" + too


def _remedy(guest: GuestCpu, host: HostCpu, lacks: CpuFlags) -> str:
    if not lacks - MICROCODE:
        first = f"update the microcode and the kernel of {host.host}"
    else:
        first = f"choose a host that `limosa hosts --fits {guest.guest}` names"
    return (
        f"{first}; or shut {guest.guest} down and boot it on {host.host} with fewer flags: this limosa moves guests "
        "live only; a `-cpu` from `limosa cpu baseline` keeps a guest movable within a group of hosts"
    )


def _unknown(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    if guest.unknown:
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"{guest.guest} sees {', '.join(guest.unknown)}, and this limosa does not know what that is",
            cause=f"it cannot be compared with {host.host}; only the twin, started with `enforce`, can tell",
            remedy="update limosa",
            flags=guest.unknown,
        )


def _program(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    """QEMU and its accelerator."""
    if host.accel and host.accel != guest.accel:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} runs under {guest.accel}, and {host.host} would run it under {host.accel}",
            cause="the state of one accelerator does not load into the other",
            remedy="choose a host with the same accelerator",
        )
    if host.machines and guest.machine not in host.machines:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"QEMU {_dotted(host.qemu)} on {host.host} does not know the machine type {guest.machine}",
            cause="the board would not be the same",
            remedy="install a QEMU that lists it in `-machine help`, and name it as `qemu` in agent.toml",
        )
    if host.qemu and host.qemu[:2] < guest.qemu[:2]:
        yield CpuFinding(
            severity=Severity.NOTE,
            what=f"{host.host} would run it on QEMU {_dotted(host.qemu)}, older than its own {_dotted(guest.qemu)}",
            cause="QEMU is tested less in this direction",
            remedy="install the same QEMU there",
        )


def _model(guest: GuestCpu) -> Iterator[CpuFinding]:
    if guest.model in _BROAD_MODELS:
        yield CpuFinding(
            severity=Severity.NOTE,
            what=f"the model `{guest.model}` of {guest.guest} means something else on each host",
            cause="it stands for all that QEMU can give there",
            remedy="none is needed: its twin is started with the flags that it sees, and no others",
        )
    if not guest.migratable:
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"{guest.guest} was started with migratable=off",
            cause="it may see flags whose state QEMU does not send",
            remedy="start it without migratable=off",
        )


def _hyperv(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    if "hv-passthrough" in guest.hyperv:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} was started with hv-passthrough",
            cause="QEMU refuses to migrate it: each kernel offers other enlightenments",
            remedy="start it with the hv-* flags that it needs, by name",
        )
    if "hv-evmcs" in guest.hyperv and host.vendor not in ("", "GenuineIntel"):
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} uses hv-evmcs, and {host.host} is {host.vendor}",
            cause="the enlightened VMCS exists on Intel processors only",
            remedy="choose an Intel host",
        )


def _addresses(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    if guest.phys_bits and host.phys_bits and guest.phys_bits > host.phys_bits:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} sees {guest.phys_bits} bits of physical addresses; {host.host} has {host.phys_bits}",
            cause="devices that firmware placed above them could not be reached",
            remedy=f"choose another host; start guests with phys-bits={host.phys_bits} to have them fit",
            consent="cpu-phys-bits",
        )


def _on_hardware(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    """Where guests run on the processor itself."""
    if guest.vendor and host.vendor and guest.vendor != host.vendor:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} sees a processor of {guest.vendor}; {host.host} has one of {host.vendor}",
            cause="its kernel chose instructions and work-arounds for the one, and may fail on the other",
            remedy="choose a host of the same vendor",
            consent="cpu-vendor",
        )
    yield from _tsc(guest, host)
    if {"vmx", "svm"} & set(guest.flags):
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"{guest.guest} may run guests of its own",
            cause="their state travels only between kernels that both send nested state (Linux 5.8 and newer)",
            remedy="have the same kernel on both hosts, or stop its guests before the move",
        )
    same = (guest.family, guest.number) == (host.family, host.model)
    if guest.pmu and not (same or host.family is None):
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"{guest.guest} sees performance counters (pmu=on), and {host.host} has another processor",
            cause="counters and their events differ between processors; QEMU does not compare them",
            remedy="start it with pmu=off",
        )


def _tsc(guest: GuestCpu, host: HostCpu) -> Iterator[CpuFinding]:
    fixed = "invtsc" in guest.flags
    if fixed and guest.tsc_khz is None:
        yield CpuFinding(
            severity=Severity.BLOCKS,
            what=f"{guest.guest} sees invtsc, and its tsc-frequency was not set",
            cause="QEMU refuses to migrate it: the counter would change its rate",
            remedy="start it with tsc-frequency=HERTZ beside +invtsc",
            flags=("invtsc",),
        )
        return
    if host.tsc_scaling or not (fixed or "hv-time" in guest.hyperv):
        return
    if guest.tsc_khz and host.tsc_khz:
        if abs(guest.tsc_khz / host.tsc_khz - 1) > TSC_TOLERANCE:
            yield CpuFinding(
                severity=Severity.BLOCKS,
                what=f"the TSC of {guest.guest} runs at {guest.tsc_khz} kHz, that of {host.host} at {host.tsc_khz} kHz",
                cause="the processor cannot scale it, and the guest relies on its rate",
                remedy="choose a host with TSC scaling, or with the same frequency",
            )
    else:
        yield CpuFinding(
            severity=Severity.WARNING,
            what=f"{guest.guest} relies on the rate of its TSC ({'invtsc' if fixed else 'hv-time'})",
            cause=f"{host.host} cannot scale it, or does not say so, and the frequencies cannot be compared",
            remedy="compare them by `dmesg | grep -i tsc` on both hosts",
        )


_SOURCES = {
    Source.QEMU: "its QEMU",
    Source.CPUID: "a CPUID dump",
    Source.CPUINFO: "/proc/cpuinfo",
}


def _source(host: HostCpu) -> Iterator[CpuFinding]:
    if host.source is not Source.QEMU:
        yield CpuFinding(
            severity=Severity.NOTE,
            what=f"{host.host} is known from {_SOURCES[host.source]} only",
            cause="its kernel and QEMU may give a guest less than the processor has",
            remedy="run an agent there",
        )
    if host.removed:
        yield CpuFinding(
            severity=Severity.NOTE,
            what=f"agent.toml of {host.host} takes away {', '.join(host.removed)}",
            cause="cpu.remove",
            remedy="none is needed",
        )


def _dotted(version: tuple[int, int, int] | None) -> str:
    return ".".join(map(str, version or ()))
