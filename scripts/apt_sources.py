#!/usr/bin/env python3
"""Print a package source for some suites, taken from the machine's own sources.

`scripts/setup` unpacks a newer QEMU and a kernel without installing them, through an apt configuration of its own.
Which mirror, key and proxy to use is the machine's business: this finds the entry that serves the running release and
prints the same entry for the suites asked for. Only the standard library: it runs before there is an environment.

Source: sources.list(5), both the one-line and the deb822 form.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

Stanza = dict[str, str]

ONE_LINE = re.compile(
    r"^\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+?)\s*$"
)
# One-line options whose deb822 name differs in more than its capital; sources.list(5) lists them.
OPTION_NAMES = {"arch": "Architectures", "lang": "Languages", "signed-by": "Signed-By", "trusted": "Trusted"}
OPTION_NAMES |= {"check-valid-until": "Check-Valid-Until", "check-date": "Check-Date", "by-hash": "By-Hash"}


def parse_list(text: str) -> list[Stanza]:
    """Read the one-line form; comments and deb-src lines are left out."""
    stanzas = []
    for line in text.splitlines():
        if not (found := ONE_LINE.match(line.partition("#")[0])):
            continue
        stanza = {"Types": "deb", "URIs": found["uri"], "Suites": found["suite"], "Components": found["components"]}
        for option in (found["options"] or "").split():
            name, _, value = option.partition("=")
            stanza[OPTION_NAMES.get(name.lower(), name)] = value.replace(",", " ")
        stanzas.append(stanza)
    return stanzas


def parse_deb822(text: str) -> list[Stanza]:
    """Read the deb822 form; a value keeps its continuation lines (a key may stand in the file itself)."""
    stanzas: list[Stanza] = []
    stanza: Stanza = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            stanzas += [stanza] if stanza else []
            stanza, name = {}, ""
        elif line.startswith("#"):
            continue
        elif line[0] in " \t" and name:
            stanza[name] += "\n" + line
        else:
            key, _, value = line.partition(":")
            name = key.strip().title().replace("Uris", "URIs")
            stanza[name] = value.strip()
    return [s for s in stanzas if "deb" in s.get("Types", "").split() and s.get("Enabled", "yes").lower() != "no"]


def read_machine(etc: Path) -> list[Stanza]:
    """All binary package sources below `etc` (usually /etc/apt), in the order apt reads them."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    stanzas = []
    for file in files:
        if file.suffix not in {".list", ".sources"} or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        stanzas += parse_deb822(text) if file.suffix == ".sources" else parse_list(text)
    return stanzas


def derive(stanzas: list[Stanza], codename: str, suites: list[str]) -> str:
    """The deb822 text of the machine's entry for `codename`, serving `suites` instead.

    Raises:
        LookupError: no entry serves the release.
    """
    for stanza in stanzas:
        if codename in stanza.get("Suites", "").split() and "main" in stanza.get("Components", "").split():
            wanted = {**stanza, "Types": "deb", "Suites": " ".join(suites), "Components": "main"}
            return "".join(f"{key}: {value}\n" for key, value in wanted.items() if key != "Enabled")
    raise LookupError(f"no package source of this machine serves Debian {codename} main")


def main(arguments: list[str]) -> int:
    """`apt_sources.py ETC CODENAME SUITE…`: print the source, or say why not and return 1."""
    etc, codename, *suites = arguments
    try:
        print(derive(read_machine(Path(etc)), codename, suites), end="")
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
