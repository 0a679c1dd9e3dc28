"""Fetch the dashboard's two libraries again, as `npm pack` delivers them: src/limosa/web/static/vendor.

Run it after a change of VERSIONS; it writes the files and `sums.txt`, which a test holds them against.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "src/limosa/web/static/vendor"
VERSIONS = {"htmx.org": "4.0.1", "uplot": "1.6.32"}
FILES = {
    "htmx.org": {
        "dist/htmx.min.js": "htmx.min.js",
        "dist/ext/hx-sse.min.js": "hx-sse.min.js",
        "LICENSE": "htmx.LICENSE",
    },
    "uplot": {
        "dist/uPlot.iife.min.js": "uplot.min.js",
        "dist/uPlot.min.css": "uplot.min.css",
        "LICENSE": "uplot.LICENSE",
    },
}


def fetch(name: str, version: str, into: Path) -> None:
    """Unpack the wanted files of one package."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{name}@{version}"], cwd=into, check=True, capture_output=True, text=True
    )
    with tarfile.open(into / packed.stdout.strip()) as archive:
        for inside, here in FILES[name].items():
            member = archive.extractfile(f"package/{inside}")
            assert member is not None
            (VENDOR / here).write_bytes(member.read())


def main() -> None:
    """Fetch, and write down what was fetched."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name, version in VERSIONS.items():
            fetch(name, version, Path(directory))
    lines = [f"# {name} {version}" for name, version in VERSIONS.items()]
    for files in FILES.values():
        lines += [f"{hashlib.sha256((VENDOR / here).read_bytes()).hexdigest()}  {here}" for here in files.values()]
    (VENDOR / "sums.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
