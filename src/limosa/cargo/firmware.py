"""Files that QEMU reads at the start: kernel, initrd, device tree, BIOS, tables and blobs.

What the guest has read of them is in its RAM by now. The twin reads them again, for the sizes of its ROMs and for
the next reset, so the same content must be there.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from limosa.cargo.identity import Identity, has_same_content, identify, is_same
from limosa.cargo.kind import HostFacts, NoDeeds, Offer, Survey, plain
from limosa.cargo.storage import mapped
from limosa.errors import Blocked
from limosa.guest.parts import MACHINE_FILES, parts
from limosa.guest.profile import Machine, Option, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

FILE_FIELDS = {
    "fw_cfg": ("file",),
    "smbios": ("file",),
    "acpitable": ("file", "data"),
    "option-rom": ("romfile",),
    "boot": ("splash",),
    "bios": ("",),
    "kernel": ("",),
    "initrd": ("",),
    "dtb": ("",),
}
"""Option -> fields that are files; the empty field is the whole value."""

WORDS = frozenset({"append", "uuid"})
"""Options that go with these and name no file."""


class Firmware(NoDeeds):
    """Kernel, initrd, BIOS, SMBIOS and fw_cfg files."""

    name = "firmware"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Machine properties and options that may name such files."""
        options = {f"option:{o.name}" for o in profile.options if o.name in FILE_FIELDS or o.name in WORDS}
        return frozenset(options | {part for part in parts(profile) if part.startswith("machine:")})

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Hash every file."""
        told = {path: plain(await _identify(path)) for path in sorted(set(files(profile)))}
        return Survey(kind=self.name, learned={"files": told})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Find the same content here, under the same or a mapped path."""
        told = msgspec.convert(survey.learned.get("files", {}), dict[str, Identity])
        findings, paths = [], {}
        for path, identity in told.items():
            there = mapped(path, request.maps) or path
            if is_same(identity, there) or await has_same_content(identity, there):
                paths[path] = there
                continue
            text = f"the guest was started with {path}; {_what_is(there)}"
            remedy = f"copy it there, or name the same file: --map {path}=PATH"
            findings.append(
                Finding(severity=Severity.BLOCKS, kind=self.name, what=text, remedy=remedy, side=Side.DESTINATION)
            )
        return Offer(kind=self.name, findings=tuple(findings), chosen={"paths": paths})

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """Paths as they are at the destination."""
        paths = {old: new for old, new in offer.chosen.get("paths", {}).items() if old != new}
        if not paths:
            return profile
        options = tuple(_option(option, paths) for option in profile.options)
        return msgspec.structs.replace(profile, options=options, machine=_machine(profile.machine, paths))


def files(profile: Profile) -> Iterator[str]:
    """Every file that QEMU was told to read. A name without a directory is one of QEMU's own, and not among them."""
    for name in MACHINE_FILES:
        value = profile.machine.properties.get(name)
        if isinstance(value, str) and "/" in value:
            yield value
    for option in profile.options:
        for found in _fields(option):
            yield from (path for path in found.split(":") if "/" in path)


def _fields(option: Option) -> Iterable[str]:
    wanted = FILE_FIELDS.get(option.name, ())
    if option.value is None:
        return
    if "" in wanted:
        yield option.value
    for word in option.value.split(","):
        key, equals, value = word.partition("=")
        if equals and key in wanted:
            yield value
        elif not equals and option.name == "option-rom":
            yield word


def _option(option: Option, paths: dict[str, str]) -> Option:
    value = option.value
    if value is None or option.name not in FILE_FIELDS:
        return option
    words = [_word(word, paths) for word in value.split(",")]
    return msgspec.structs.replace(option, value=",".join(words))


def _word(word: str, paths: dict[str, str]) -> str:
    key, equals, value = word.rpartition("=")
    return key + equals + ":".join(paths.get(path, path) for path in value.split(":"))


def _machine(machine: Machine, paths: dict[str, str]) -> Machine:
    changed = {
        name: paths[value]
        for name in MACHINE_FILES
        if isinstance(value := machine.properties.get(name), str) and value in paths
    }
    return msgspec.structs.replace(machine, properties=machine.properties | changed)


async def _identify(path: str) -> Identity:
    try:
        return await identify(path, beacon=True, content=True)
    except OSError as refused:
        raise Blocked(
            f"the guest was started with {path}, which cannot be read any more: {refused.strerror}",
            guest_runs=Side.SOURCE,
            remedy="put that file back: the same machine cannot be built without it",
        ) from refused


def _what_is(path: str) -> str:
    return f"{path} is another file here" if Path(path).exists() else f"there is no {path} here"
