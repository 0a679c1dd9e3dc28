"""Fetch the dashboard's two libraries again, and the one that judges its pages in tests, as `npm pack` delivers them.

Run it after a change of VERSIONS; it writes the files and each directory's `sums.txt`, which a test holds them against.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVED, TESTED = ROOT / "src/limosa/web/static/vendor", ROOT / "tests/browser/vendor"
VERSIONS = {SERVED: {"htmx.org": "4.0.1", "uplot": "1.6.32"}, TESTED: {"axe-core": "4.12.1"}}
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
    "axe-core": {
        "axe.min.js": "axe.min.js",
        "LICENSE": "axe.LICENSE",
        "LICENSE-3RD-PARTY.txt": "axe.THIRD-PARTY",
    },
}


def fetch(name: str, version: str, into: Path, vendor: Path) -> None:
    """Unpack the wanted files of one package."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{name}@{version}"], cwd=into, check=True, capture_output=True, text=True
    )
    with tarfile.open(into / packed.stdout.strip()) as archive:
        for inside, here in FILES[name].items():
            member = archive.extractfile(f"package/{inside}")
            assert member is not None
            (vendor / here).write_bytes(member.read())


def main() -> None:
    """Fetch, and write down what was fetched."""
    for vendor, versions in VERSIONS.items():
        vendor.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            for name, version in versions.items():
                fetch(name, version, Path(directory), vendor)
        lines = [f"# {name} {version}" for name, version in versions.items()]
        for name in versions:
            digests = (
                (hashlib.sha256((vendor / here).read_bytes()).hexdigest(), here) for here in FILES[name].values()
            )
            lines += [f"{digest}  {here}" for digest, here in digests]
        (vendor / "sums.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
