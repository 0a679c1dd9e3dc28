"""What the two processors mean for a move. Pure."""

from limosa.cpu.compat import compatible
from limosa.guest.cpu import guest_cpu
from limosa.guest.profile import Profile
from limosa.migration.ends import OfferAnswer
from limosa.units import Side
from limosa.wire.findings import Finding, Severity


def cpu_findings(profile: Profile, answer: OfferAnswer) -> tuple[Finding, ...]:
    """Whether the guest can go on on the destination's processor, through the QEMU that the destination chose."""
    if answer.cpu is None:
        return ()
    return tuple(
        Finding(
            severity=Severity(found.severity.value),
            kind="cpu",
            what=f"{found.what}: {found.cause}",
            remedy=found.remedy,
            side=Side.DESTINATION,
            consent=found.consent,
        )
        for found in compatible(guest_cpu(profile), answer.cpu)
    )
