"""`make faults`: runs the fault matrix, cell by cell, and writes docs/faults.md. Stopped, it goes on later."""

import argparse
import asyncio
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from limosa.errors import LimosaError
from limosa.lab import assets
from limosa.lab.ending import run_to_the_end
from limosa.lab.faults_bench import Bench, bench
from limosa.lab.faults_matrix import Cell, Result, cells, page, sample
from limosa.lab.faults_run import run_cell


def results_file() -> Path:
    """Where results are kept between runs, a line each; the last one of a cell counts."""
    return assets.cache_dir() / "faults" / "results.jsonl"


def known_results(path: Path) -> dict[str, Result]:
    """Results so far, by cell."""
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines()
    return {result.cell: result for result in (msgspec.json.decode(line, type=Result) for line in lines if line)}


async def run(chosen_cells: Iterable[Cell], name: str, path: Path) -> int:
    """Run cells in a lab of their own; a lab in which something went wrong is built anew. Returns how many failed."""
    left = list(chosen_cells)
    failed, built = 0, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    while left:
        built += 1
        async with bench(f"{name}-{built}") as made:
            while left:
                cell = left.pop(0)
                result = await _result(made, cell)
                note(path, result)
                say(result, len(left))
                if result.wrong:
                    failed += 1
                    keep_logs(made, cell, path.parent / "failed")
                    break
    return failed


async def _result(made: Bench, cell: Cell) -> Result:
    began = time.monotonic()
    try:
        return await run_cell(made, cell)
    except (LimosaError, OSError, TimeoutError) as error:
        what = f"{type(error).__name__}: {error} {getattr(error, 'detail', '')}"
        took = round(time.monotonic() - began, 2)
        return Result(
            cell=cell.name,
            fault=cell.fault,
            point=cell.point.name,
            outcome="unknown",
            state="unknown",
            settled=0.0,
            took=took,
            wrong=(what.strip(),),
        )


def note(path: Path, result: Result) -> None:
    """Keep a result."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def say(result: Result, left: int) -> None:
    """One line for whoever watches, and more where it went wrong."""
    mark = "WRONG" if result.wrong else "holds"
    print(f"{mark} {result.cell}: {result.outcome}, {result.state}, settled {result.settled:.1f} s,", end=" ")
    print(f"took {result.took:.1f} s; {left} to go", flush=True)
    for wrong in result.wrong:
        print(f"    {wrong}", flush=True)
    if result.wrong and result.said:
        print(f"    said: {result.said}", flush=True)


def keep_logs(made: Bench, cell: Cell, below: Path) -> None:
    """Agents' and QEMUs' logs of a cell that went wrong."""
    place = below / re.sub(r"[^a-z0-9]+", "-", cell.name)
    shutil.rmtree(place, ignore_errors=True)
    for host in made.lab.hosts.values():
        shutil.copytree(host.directory / "log", place / host.name, dirs_exist_ok=True)
        if host.plugged:
            shutil.copytree(host.path("/run/limosa"), place / f"{host.name}-guests", ignore=_sockets)
        shutil.copytree(host.directory / "lib", place / f"{host.name}-state", dirs_exist_ok=True)


def _sockets(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(("stderr", "log")) and not name.startswith("m")]


def chosen(all_cells: Sequence[Cell], only: str, count: int, done: Iterable[str]) -> tuple[Cell, ...]:
    """The cells to run: those whose name has `only`; or a sample; without those that are done."""
    found = sample(all_cells, count) if count else tuple(all_cells)
    return tuple(cell for cell in found if re.search(only, cell.name) and cell.name not in set(done))


def heading() -> str:
    """Date and versions, for the page."""
    day = datetime.now(UTC).date().isoformat()
    qemu = ".".join(map(str, assets.qemu_version(assets.qemu_10())))
    return f"{day}, limosa {version('limosa')}, QEMU {qemu} (TCG), Linux {platform.release()}, {os.cpu_count()} CPUs."


async def in_shares(arguments: argparse.Namespace, jobs: int) -> int:
    """Several labs at once, each run by a process of its own."""
    words = [sys.executable, "-m", "limosa.lab.faults_main", "--only", arguments.only]
    words += ["--sample", str(arguments.sample), *(["--fresh"] if arguments.fresh else [])]
    shares = [await asyncio.create_subprocess_exec(*words, "--share", f"{n}/{jobs}") for n in range(jobs)]
    try:
        return max([await share.wait() for share in shares])
    finally:
        for share in shares:
            if share.returncode is None:
                share.terminate()  # each takes its own lab down
                await share.wait()


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name matches this regular expression")
    parser.add_argument("--sample", type=int, default=0, help="a fixed choice of so many cells")
    parser.add_argument("--jobs", type=int, default=1, help="so many labs at once")
    parser.add_argument("--fresh", action="store_true", help="run what has a result already, too")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    return parser.parse_args(words)


async def main(arguments: argparse.Namespace) -> int:
    """Run what is asked for, and write the page. Returns 1 where a cell failed."""
    path = results_file()
    part, parts = map(int, arguments.share.split("/"))
    failed = 0
    if arguments.jobs > 1:
        failed = await in_shares(arguments, arguments.jobs)
    elif not arguments.page:
        done = () if arguments.fresh else [c for c, r in known_results(path).items() if not r.wrong]
        wanted = chosen(cells(), arguments.only, arguments.sample, done)[part::parts]
        failed = await run(wanted, f"faults-{os.getpid()}", path)
    if parts == 1:
        write_page(path)
    return int(failed > 0)


def write_page(path: Path) -> None:
    """docs/faults.md, from all results."""
    names = {cell.name for cell in cells()}
    current = [result for result in known_results(path).values() if result.cell in names]
    words = page(current, heading=heading(), seconds=sum(result.took for result in current))
    target = Path(__file__).parents[3] / "docs" / "faults.md"
    target.write_text(words)
    print(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(run_to_the_end(main(parsed())))
