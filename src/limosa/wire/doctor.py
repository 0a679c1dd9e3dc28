"""What `limosa doctor` asks of hosts, and what it says."""

from enum import StrEnum

import msgspec

from limosa.wire.findings import Finding


class Weight(StrEnum):
    """How much a trouble matters. Notes do not make a host sick."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Qemu(msgspec.Struct, frozen=True, kw_only=True):
    """One QEMU process."""

    pid: int
    name: str
    uuid: str | None
    state: str
    """QEMU's run state; `unknown` where no monitor answers."""
    move: str | None
    """The open move that has it in hand."""
    ours: bool
    """Whether limosa started it: its monitor is in limosa's own directory."""


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal says of a guest's owner."""

    identity: str
    epoch: int
    here: bool
    """False: given up to `peer`."""
    move: str
    peer: str


class OpenShown(msgspec.Struct, frozen=True, kw_only=True):
    """A move that a journal has open."""

    id: str
    side: str
    guest: str
    identity: str
    peer: str
    state: str
    waits_for: str = ""
    remedy: str = ""


class Standing(StrEnum):
    """What a host's journal knows of a move."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was made for a move and is still there."""

    kind: str
    """file, image, tap, directory, socket, job, export, node, object, bitmap."""
    name: str
    move: str
    """Its move; empty where its name does not tell."""
    standing: Standing
    held_by: str = ""
    """The process that uses it."""
    doubt: str = ""
    """Why nobody can prove that it is unused."""
    pid: int = 0
    """The QEMU that it is in."""
    whole_host: bool = True
    """False for what other hosts may see too: then their journals count as well."""


class OldImage(msgspec.Struct, frozen=True, kw_only=True):
    """A source image that a move set aside. Bytes that it takes."""

    path: str
    move: str
    size: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One host as it is."""

    host: str
    qemus: tuple[Qemu, ...] = ()
    owners: tuple[Owned, ...] = ()
    moves: tuple[OpenShown, ...] = ()
    things: tuple[Thing, ...] = ()
    old_images: tuple[OldImage, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Certificates, clocks, the state disk."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or worth knowing."""

    weight: Weight
    host: str
    what: str
    guest_runs: str = ""
    """The hosts on which the guest runs, or what is known instead; empty where no guest is concerned."""
    remedy: str = ""


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one stray."""

    what: str
    removed: bool
    why: str = ""
    """Why it was left."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `limosa doctor`."""

    hosts: tuple[Facts, ...]
    """The asked host first."""
    troubles: tuple[Trouble, ...]
    fixed: tuple[Fixed, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return all(trouble.weight is Weight.NOTE for trouble in self.troubles)


class FleetDiagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/doctor: what is wrong in the fleet, worst first."""

    at: float
    """When it was found, seconds since 1970."""
    hosts: int
    """Hosts of the fleet."""
    asked: int
    """Hosts whose agents answered; the others are among the troubles."""
    troubles: tuple[Trouble, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return all(trouble.weight is Weight.NOTE for trouble in self.troubles)
