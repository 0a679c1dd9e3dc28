"""The values that `limosa cpu baseline` prints, given to QEMU itself.

Only TCG can start here, and TCG has fewer flags than the processors of the dumps: each group's flags are first cut to
what TCG supports, which is what `max` means under it. With `enforce`, a QEMU that cannot give a flag does not start.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limosa.cpu.baseline import SETTABLE, CpuValue, common, nearest
from limosa.cpu.dump import read_dump
from limosa.cpu.facts import HostCpu, visible
from limosa.cpu.flags import NONE, CpuFlags
from limosa.cpu.models import models
from limosa.cpu.sides import given
from limosa.guest.probe import get_all
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

from .conftest import SMALLEST, StartQemu

pytestmark = pytest.mark.qemu

DUMPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cpuid"
VENDORS = ("GenuineIntel", "AuthenticAMD")
EXPANDED, STARTED = 400, 24
"""Groups whose values one QEMU expands, and those for which a QEMU of their own is started."""


@pytest.fixture(scope="module")
def dumps() -> dict[str, list[HostCpu]]:
    """Real processors, by vendor."""
    if not DUMPS.is_dir():
        pytest.skip("the dumps of real processors are not beside this checkout")
    found: dict[str, list[HostCpu]] = {vendor: [] for vendor in VENDORS}
    for file in sorted(DUMPS.glob("*.cpuid")):
        cpu = read_dump(file.read_text("ascii"), file.stem)
        if cpu.vendor in found:
            found[cpu.vendor].append(cpu)
    return found


@pytest.fixture
async def monitor(start_qemu: StartQemu) -> AsyncIterator[Monitor]:
    """A QEMU 10.0 that expands models."""
    qemu = await asyncio.to_thread(start_qemu, assets.qemu_10(), "-qmp", "unix:qmp,server=on,wait=off")
    monitor = await qemu.monitor()
    yield monitor
    await monitor.close()


async def expanded(monitor: Monitor, model: str, props: dict[str, bool]) -> CpuFlags:
    told = await monitor.execute(
        "query-cpu-model-expansion", {"type": "full", "model": {"name": model, "props": props}}
    )
    return CpuFlags.sort(name for name, value in told["model"]["props"].items() if value is True)[0]


def groups(dumps: dict[str, list[HostCpu]], count: int) -> list[tuple[str, list[HostCpu]]]:
    """Groups of one to eight hosts, always the same."""
    chance = random.Random(4)
    vendors = [VENDORS[number % 2] for number in range(count)]
    return [(vendor, chance.sample(dumps[vendor], chance.randint(1, 8))) for vendor in vendors]


async def test_a_baseline_expands_to_exactly_its_mask(monitor: Monitor, dumps: dict[str, list[HostCpu]]) -> None:
    tcg = await expanded(monitor, "max", {})
    for vendor, group in groups(dumps, EXPANDED):
        wanted = common(map(given, group)) & tcg
        value = nearest(wanted, vendor=vendor)[0]
        props = dict.fromkeys(value.on.names(), True) | dict.fromkeys(value.off.names(), False)
        seen = await expanded(monitor, value.model.name, props) & SETTABLE
        assert (seen - wanted, (wanted & SETTABLE) - seen) == (NONE, NONE), f"{[cpu.host for cpu in group]}: {value}"
        assert value.sees == seen


async def test_a_baseline_starts_with_enforce_and_the_guest_sees_exactly_its_mask(
    monitor: Monitor, start_qemu: StartQemu, dumps: dict[str, list[HostCpu]]
) -> None:
    tcg = await expanded(monitor, "max", {})
    for vendor, group in groups(dumps, STARTED):
        wanted = common(map(given, group)) & tcg
        value = nearest(wanted, vendor=vendor)[0]
        assert await seen_by_a_guest(start_qemu, value) == value.sees == wanted & SETTABLE


async def test_a_mask_can_be_said_with_a_model_that_it_does_not_come_from(
    monitor: Monitor, start_qemu: StartQemu
) -> None:
    tcg = await expanded(monitor, "max", {})
    for model in models()[:: max(1, len(models()) // 12)]:
        wanted = model.flags & tcg
        value = next(one for one in nearest(wanted) if one.model.name != model.name)
        assert await seen_by_a_guest(start_qemu, value) == value.sees == wanted & SETTABLE


async def test_a_flag_that_tcg_has_not_keeps_a_value_from_starting() -> None:
    """That `enforce` is worth something: else the tests above would prove nothing."""
    value = nearest(CpuFlags.of("fpu", "lm", "avx512f"), vendor="GenuineIntel")[0]
    words = (*SMALLEST, "-cpu", f"{value},enforce")
    process = await asyncio.create_subprocess_exec(assets.qemu_10(), *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"TCG doesn't support requested feature" in said
    assert b"avx512f" in said


async def test_the_table_of_models_is_what_this_qemu_says(monitor: Monitor) -> None:
    for model in models():
        assert await expanded(monitor, model.name, {}) == model.flags
        with_vmx = await expanded(monitor, model.name, {"vmx": True})
        assert with_vmx - model.flags - CpuFlags.of("vmx") == model.with_vmx
    definitions = await monitor.execute("query-cpu-definitions")
    stable = {told["name"] for told in definitions if told["migration-safe"] and not told["static"]}
    assert {name for model in models() for name in (model.name, *model.also)} == stable


async def seen_by_a_guest(start_qemu: StartQemu, value: CpuValue) -> CpuFlags:
    """Start it with `enforce`, and read the flags of its CPU object."""
    words = ("-cpu", f"{value},enforce", "-qmp", "unix:guest,server=on,wait=off")
    qemu = await asyncio.to_thread(start_qemu, assets.qemu_10(), *words, listens=("guest",))
    monitor = await qemu.monitor("guest")
    try:
        (cpu,) = await monitor.execute("query-cpus-fast")
        props = await get_all(monitor, cpu["qom-path"], SETTABLE.names())
    finally:
        await monitor.close()
        qemu.kill()
        (qemu.directory / "guest").unlink()
    return visible(CpuFlags.sort(name for name, value in props.items() if value is True)[0]) & SETTABLE
