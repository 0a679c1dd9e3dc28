"""vCPUs: the model, the cold ones and those plugged later. Their state travels in the migration stream.

Whether the destination's processor has every flag that the guest sees is decided by the twin, which is started
with `enforce` and compared; here is what can be said without it.
"""

import os

from limosa.cargo.kind import HostFacts, NoDeeds, Offer, Survey
from limosa.guest.profile import Profile
from limosa.units import MoveId, Side, format_count
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest


class Vcpus(NoDeeds):
    """The guest's processors."""

    name = "vcpus"

    def claims(self, profile: Profile) -> frozenset[str]:
        """The CPU model, and vCPUs that are devices of their own."""
        plugged = {f"device:{device.path}" for device in profile.devices if device.driver == profile.cpu.type}
        return frozenset({"cpu"} | plugged | {f"cpu:{cpu.id}" for cpu in profile.plugged_cpus})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Warn where the guest has more vCPUs than this host has processors."""
        wanted, here = profile.smp.cpus + len(profile.plugged_cpus), len(os.sched_getaffinity(0))
        if wanted <= here:
            return Offer(kind=self.name)
        text = f"the guest has {format_count(wanted, 'vCPU')}; this host has {here}"
        finding = Finding(severity=Severity.WARNING, kind=self.name, what=text, side=Side.DESTINATION)
        return Offer(kind=self.name, findings=(finding,))
