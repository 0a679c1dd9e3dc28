"""How long reading a guest takes: `introspect` against a naive walk of all its objects, in the same run.

    uv run python bench/introspect.py [--runs 9]

A guest of 40 devices is started on QEMU 10.0 and, where there is one, on 7.2; both ways use the same connection.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from limosa.errors import QmpError
from limosa.guest.introspect import introspect
from limosa.guest.probe import Probe
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

DISKS, NICS, PORTS = 12, 6, 8


class Counting:
    """A monitor that counts the commands sent through it."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.monitor, name)

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None, **how: Any) -> Any:
        """One command."""
        self.calls[command] += 1
        return await self.monitor.execute(command, arguments, **how)

    async def execute_many(self, commands: Sequence[tuple[str, Mapping[str, Any] | None]], **how: Any) -> list[Any]:
        """Several commands."""
        self.calls.update(command for command, _ in commands)
        return await self.monitor.execute_many(commands, **how)

    async def hmp(self, line: str) -> str:
        """One line of the human monitor."""
        self.calls["human-monitor-command"] += 1
        return await self.monitor.hmp(line)


def guest(directory: Path) -> list[str]:
    """The command line of a guest with 40 devices, images included."""
    words = ["-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-m", "256,slots=4,maxmem=2G"]
    words += ["-smp", "2,maxcpus=4", "-serial", "null", "-S", "-qmp", "unix:qmp,server=on,wait=off"]
    for n in range(PORTS):
        words += ["-device", f"pcie-root-port,id=rp{n},chassis={n + 1}"]
    words += ["-device", "virtio-scsi-pci,id=scsi0", "-device", "qemu-xhci,id=xhci", "-device", "usb-tablet"]
    words += ["-device", "virtio-serial-pci", "-chardev", "socket,id=ga,path=ga,server=on,wait=off"]
    words += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0", "-device", "VGA"]
    words += ["-device", "virtio-balloon-pci", "-device", "virtio-rng-pci", "-device", "i6300esb", "-device", "pvpanic"]
    words += ["-object", "memory-backend-ram,id=m0,size=64M", "-device", "pc-dimm,memdev=m0,id=dimm0"]
    words += ["-device", "ide-cd", "-device", "usb-kbd"]
    for n in range(DISKS):
        image = directory / f"disk{n}.raw"
        image.touch()
        image.write_bytes(bytes(1 << 20))
        words += ["-drive", f"if=none,id=d{n},file={image.name},format=raw"]
        words += ["-device", f"scsi-hd,drive=d{n},lun={n}" if n % 2 else f"virtio-blk-pci,drive=d{n},id=disk{n}"]
    for n in range(NICS):
        words += ["-netdev", f"user,id=n{n}", "-device", f"virtio-net-pci,netdev=n{n},id=nic{n}"]
    return words


async def naive(monitor: Counting) -> int:
    """Walk the object tree and get every property, one call after the other; the number of properties read."""
    read, waiting = 0, ["/machine", "/objects", "/chardevs"]
    while waiting:
        path = waiting.pop()
        for told in await monitor.execute("qom-list", {"path": path}):
            if told["type"].startswith("child<"):
                if not told["type"].startswith(("child<memory-region", "child<irq")):
                    waiting.append(f"{path}/{told['name']}")
                continue
            try:
                await monitor.execute("qom-get", {"path": path, "property": told["name"]})
                read += 1
            except QmpError:
                pass  # write-only
    return read


@asynccontextmanager
async def started(binary: Path) -> AsyncIterator[tuple[int, Counting]]:
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as name:
        directory = Path(name)
        process = await asyncio.create_subprocess_exec(
            str(binary), *guest(directory), cwd=directory, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            while not (directory / "qmp").exists():  # QEMU tells nobody when its socket is there
                await asyncio.sleep(0.02)
            monitor = await Monitor.connect(str(directory / "qmp"), pid=process.pid, greeting_timeout=20)
            yield process.pid, Counting(monitor)
            await monitor.close()
        finally:
            process.kill()
            await process.wait()


async def timed(monitor: Counting, deed: Callable[[], Awaitable[Any]]) -> tuple[float, int]:
    """Milliseconds and QMP calls of one deed."""
    before, begin = monitor.calls.total(), time.perf_counter()
    await deed()
    return (time.perf_counter() - begin) * 1000, monitor.calls.total() - before


async def measure(binary: Path, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lm-probe-") as cache:
        async with started(binary) as (pid, monitor):

            async def read() -> Any:
                return await introspect(monitor, pid=pid, probe=Probe(binary, Path(cache)))  # type: ignore[arg-type]

            first = await timed(monitor, read)
            devices = len((await read()).devices)
            rows: dict[str, list[tuple[float, int]]] = {"introspect": [], "naive walk": []}
            for _ in range(runs):
                rows["introspect"].append(await timed(monitor, read))
                rows["naive walk"].append(await timed(monitor, lambda: naive(monitor)))
            version = ".".join(map(str, monitor.version))
            print(f"QEMU {version}, {devices} devices of the user's, {runs} runs each, interleaved")
            print(f"  {'first read of this program ever':32} {first[0]:8.0f} ms {first[1]:6} calls")
            for name, taken in rows.items():
                times = [ms for ms, _ in taken]
                print(
                    f"  {name:32} {statistics.median(times):8.0f} ms {taken[-1][1]:6} calls"
                    f"   (min {min(times):.0f}, max {max(times):.0f})"
                )
            ratio = statistics.median(t for t, _ in rows["naive walk"]) / statistics.median(
                t for t, _ in rows["introspect"]
            )
            print(f"  {'ratio of medians':32} {ratio:8.1f}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    for binary in filter(None, (assets.qemu_10(), assets.qemu_7())):
        await measure(binary, runs)


if __name__ == "__main__":
    asyncio.run(main())
