"""What a guest sees of its processor, out of its profile. Pure."""

from collections.abc import Mapping

from limosa.cpu.facts import GuestCpu, visible, with_areas
from limosa.cpu.flags import CpuFlags
from limosa.guest.profile import Profile, Value
from limosa.guest.wordlist import names

# Switches of QEMU's CPU object that are no flags: they say how the CPU is made, not what it can do.
_SETTINGS = names("""
    check enforce migratable pmu kvm realized hotplugged hotpluggable start-powered-off lmce xen-vapic
    cpuid-0xb fill-mtrr-mask full-cpuid-auto-level host-cache-info host-phys-bits kvm-no-smi-migration
    kvm-pv-enforce-cpuid l3-cache legacy-cache legacy-multi-node tcg-cpuid vmware-cpuid-freq
    """)


def guest_cpu(profile: Profile) -> GuestCpu:
    """The guest's processor as the running QEMU has it, after filtering."""
    seen = profile.guest_visible.get("cpu", {})
    flags, others = CpuFlags.sort(profile.cpu.flags)
    hertz = _number(seen, "tsc-frequency")
    return GuestCpu(
        guest=profile.name,
        model=profile.cpu.model,
        flags=with_areas(visible(flags)).names(),
        unknown=tuple(name for name in others if name not in _SETTINGS and not name.startswith(("hv-", "x-"))),
        accel=profile.machine.accel,
        machine=profile.machine.type,
        qemu=profile.qemu.version,
        vendor=str(seen.get("vendor", "")),
        family=_number(seen, "family"),
        number=_number(seen, "model"),
        stepping=_number(seen, "stepping"),
        phys_bits=_number(seen, "phys-bits"),
        tsc_khz=hertz // 1000 if hertz else None,
        hyperv=tuple(name for name in others if name.startswith("hv-")),
        pmu=seen.get("pmu") is True,
        migratable=seen.get("migratable") is not False,
    )


def _number(seen: Mapping[str, Value], name: str) -> int | None:
    value = seen.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
