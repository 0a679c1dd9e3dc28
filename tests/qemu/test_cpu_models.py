"""Our masks against QEMU's own verdict on every model that it has a name for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import FLAGS, Cpuid, Msr
from limosa.destination.binaries import look_at
from limosa.destination.host_cpu import host_cpu
from limosa.guest.probe import Board, Probe
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

pytestmark = [pytest.mark.qemu]

QEMUS = [pytest.param(assets.qemu_10, id="10.0"), pytest.param(assets.qemu_7, id="7.2")]


@pytest.fixture(params=QEMUS)
def qemu(request: pytest.FixtureRequest) -> Path:
    found: Path | None = request.param()
    if found is None:
        pytest.skip("this QEMU is not installed here")
    return found


async def expanded(monitor: Monitor, model: str) -> CpuFlags:
    question = {"type": "full", "model": {"name": model}}
    properties = (await monitor.execute("query-cpu-model-expansion", question))["model"]["props"]
    return CpuFlags.sort(name for name, value in properties.items() if value is True)[0]


async def test_what_our_masks_miss_of_each_model_is_what_qemu_reports_as_unavailable(qemu: Path) -> None:
    binary = await look_at(str(qemu))
    assert binary is not None
    here = (await host_cpu("h", binary, "tcg")).mask
    wrong: dict[str, tuple[CpuFlags, CpuFlags]] = {}
    async with Probe(qemu).running(Board(machine="none", cpu="", accel="tcg")) as monitor:
        models = await monitor.execute("query-cpu-definitions")
        for model in models:
            unavailable, unknown = CpuFlags.sort(model["unavailable-features"])
            if model["name"] == "host":  # the one model that TCG does not have at all
                assert unknown == ("kvm",)
                continue
            assert unknown == ()
            missing = await expanded(monitor, model["name"]) - here
            if missing != unavailable:
                wrong[model["name"]] = (missing - unavailable, unavailable - missing)
    assert wrong == {}
    assert len(models) > 100


async def test_the_registry_has_every_flag_that_qemu_has(qemu: Path) -> None:
    listing = await asyncio.create_subprocess_exec(str(qemu), "-cpu", "help", stdout=asyncio.subprocess.PIPE)
    out, _ = await listing.communicate()
    names = out.decode().partition("Recognized CPUID flags:")[2].split()
    assert len(names) > 300
    assert CpuFlags.sort(names)[1] == ()


async def words(monitor: Monitor, path: str) -> dict[tuple[int, int, str], int]:
    """A CPU's CPUID words: what it has, and what it was asked to have."""
    found: dict[tuple[int, int, str], int] = {}
    for name in ("feature-words", "filtered-features"):
        told: list[dict[str, Any]] = await monitor.execute("qom-get", {"path": path, "property": name})
        for word in told:
            key = (word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0), word["cpuid-register"].lower())
            found[key] = found.get(key, 0) | word["features"]
    return found


# A flag of these leaves needs more than to be asked for: KVM, or another flag (docs/qemu-notes.md).
_NEEDS_MORE = frozenset({0x40000001})
_DEFAULTS = ("xsave", "avx", "vmx", "svm", "lm", "mpx", "xsaves")


async def test_each_cpuid_flag_sets_its_own_bit_and_no_other(qemu: Path) -> None:
    binary = await look_at(str(qemu))
    assert binary is not None
    async with Probe(qemu).running(Board(machine="none", cpu="", accel="tcg")) as monitor:
        declared = await monitor.execute("device-list-properties", {"typename": "base-x86_64-cpu"})
    known = {known["name"] for known in declared}
    asked = [f for f in FLAGS if f.settable and f.name in known and f.name not in ("ht", "cmp-legacy", "apic")]
    asked = [f for f in asked if isinstance(f.place, Cpuid) and f.place.leaf not in _NEEDS_MORE]
    board = Board(machine="pc", cpu="base,apic=on", accel="tcg", options=(("smp.maxcpus", "255"),))
    wrong: list[str] = []
    for start in range(0, len(asked), 200):
        async with Probe(qemu).running(board) as monitor:
            slots = [s for s in await monitor.execute("query-hotpluggable-cpus") if "qom-path" not in s]
            plain = await added(monitor, slots.pop(), "plain", _DEFAULTS)
            for f in asked[start : start + 200]:
                with_it = await added(monitor, slots.pop(), f.name.replace(".", "-"), (*_DEFAULTS, f.name))
                assert isinstance(f.place, Cpuid)
                key = (f.place.leaf, f.place.subleaf, f.place.register)
                changed = {k: v & ~plain.get(k, 0) for k, v in with_it.items() if k[0] != 0xD or k[1:] == (1, "eax")}
                expected = {key: 1 << f.place.bit} if f.name not in _DEFAULTS else {}
                if {k: v for k, v in changed.items() if v} != expected or not with_it[key] >> f.place.bit & 1:
                    wrong.append(f.name)
    assert wrong == []


async def added(monitor: Monitor, slot: dict[str, Any], name: str, flags: tuple[str, ...]) -> dict[Any, int]:
    """The words of a CPU that was plugged with these flags."""
    wanted = {"driver": "base-x86_64-cpu", "id": f"cpu-{name}", **slot["props"], **dict.fromkeys(flags, True)}
    await monitor.execute("device_add", wanted)
    return await words(monitor, f"/machine/peripheral/cpu-{name}")


def test_msr_flags_are_those_that_no_cpuid_word_has() -> None:
    indexes = {f.place.index for f in FLAGS if isinstance(f.place, Msr)}
    assert indexes == {0xCF, 0x10A, 0x345, 0x480, 0x485, 0x48B, 0x48C, 0x48D, 0x48E, 0x48F, 0x490, 0x491}
