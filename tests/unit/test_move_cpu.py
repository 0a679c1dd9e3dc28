from typing import Any

from msgspec.structs import replace

from limosa.cargo.kind import HostFacts, Streams
from limosa.cpu.facts import HostCpu, Source
from limosa.guest.cpu import guest_cpu
from limosa.guest.profile import Cpu, Machine
from limosa.migration.cpu import cpu_findings
from limosa.migration.ends import OfferAnswer
from limosa.testing.profiles import bare_profile
from limosa.units import Side
from limosa.wire.findings import Severity, blocking

SEEN: dict[str, Any] = {
    "vendor": "GenuineIntel",
    "family": 6,
    "model": 85,
    "stepping": 7,
    "phys-bits": 40,
    "tsc-frequency": 2_600_000_000,
    "pmu": True,
    "migratable": True,
}
PROFILE = bare_profile(
    name="web1",
    machine=Machine(type="pc-q35-10.0", accel="kvm", properties={}),
    cpu=Cpu(
        type="host-x86_64-cpu",
        model="host",
        properties={},
        flags=(
            "avx",
            "hv-time",
            "migratable",
            "pmu",
            "rdctl-no",
            "sse4_1",
            "sse4.1",
            "tomorrow",
            "x-force-features",
            "xsave",
        ),
    ),
    guest_visible={"cpu": SEEN},
)
ANSWER = OfferAnswer(
    host=HostFacts(name="b", migration_address="", state_dir="", run_dir="", machine_id=""),
    binary="",
    version=(10, 0, 2),
    offers=(),
    streams=Streams(address="", nbd_port=1, migration_port=2, tls_creds=None),
    monitor="",
    findings=(),
)


def test_a_guests_processor_is_what_its_profile_says_it_sees() -> None:
    cpu = guest_cpu(PROFILE)
    assert cpu.flags == ("sse4.1", "xsave", "avx", "xcr0-x87", "xcr0-sse", "xcr0-avx")
    assert (cpu.unknown, cpu.hyperv) == (("tomorrow",), ("hv-time",))
    assert (cpu.vendor, cpu.family, cpu.number, cpu.stepping) == ("GenuineIntel", 6, 85, 7)
    assert (cpu.phys_bits, cpu.tsc_khz, cpu.pmu, cpu.migratable) == (40, 2_600_000, True, True)
    assert (cpu.model, cpu.accel, cpu.machine, cpu.qemu) == ("host", "kvm", "pc-q35-10.0", (10, 0, 2))


def test_a_tsc_that_was_not_set_is_not_known() -> None:
    assert guest_cpu(replace(PROFILE, guest_visible={"cpu": SEEN | {"tsc-frequency": 0}})).tsc_khz is None


def test_what_is_missing_blocks_the_move_on_the_destinations_side() -> None:
    there = HostCpu(host="b", source=Source.QEMU, flags=("sse4.1",), accel="kvm", vendor="AuthenticAMD", phys_bits=48)
    stops = blocking(cpu_findings(PROFILE, replace(ANSWER, cpu=there)))
    assert [(stop.kind, stop.side, stop.severity, stop.consent) for stop in stops] == [
        ("cpu", Side.DESTINATION, Severity.BLOCKS, None),
        ("cpu", Side.DESTINATION, Severity.BLOCKS, "cpu-vendor"),
    ]
    assert stops[0].what.startswith("b lacks xsave, avx of the flags that web1 sees: ")
    assert blocking(stops, ["cpu-vendor"]) == stops[:1]


def test_a_destination_that_does_not_tell_leaves_it_to_the_twin() -> None:
    (found,) = cpu_findings(PROFILE, ANSWER)
    assert found.severity is Severity.WARNING
    assert "does not tell what its CPU can give" in found.what
