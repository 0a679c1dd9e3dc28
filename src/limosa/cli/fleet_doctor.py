"""`limosa doctor` over a fleet: what its controller and every agent found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limosa.cli.doctor import SICK, trouble_told
from limosa.cli.output import answer
from limosa.errors import UsageError
from limosa.units import format_count

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient
    from limosa.wire.doctor import FleetDiagnosis


def doctor(fleet: FleetClient, fix: bool, as_json: bool) -> int:
    """Tell what is wrong in the fleet; 0 says that all is well.

    Raises:
        UsageError: something is to be removed: that is for one host at a time.
    """
    if fix:
        raise UsageError(
            "--fix removes things from one host, and a controller was named",
            remedy="limosa -H ssh://root@HOST doctor --fix",
        )
    diagnosis = fleet.doctor()
    answer(diagnosis, lambda: page(diagnosis), as_json=as_json)
    return 0 if diagnosis.clean else SICK


def page(diagnosis: FleetDiagnosis) -> str:
    """What `limosa doctor` prints."""
    asked = f"{diagnosis.asked:,} of {format_count(diagnosis.hosts, 'host')} looked at"
    end = f"{asked}: all is well" if diagnosis.clean else f"{asked}: something is wrong"
    return "\n\n".join([*map(trouble_told, diagnosis.troubles), end])
