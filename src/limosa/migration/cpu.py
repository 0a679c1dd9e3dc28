"""What the two processors mean for a move. Pure."""

from limosa.cpu.compat import compatible
from limosa.guest.cpu import guest_cpu
from limosa.guest.profile import Profile
from limosa.migration.ends import OfferAnswer
from limosa.units import Side
from limosa.wire.findings import Finding, Severity


def cpu_findings(profile: Profile, answer: OfferAnswer) -> tuple[Finding, ...]:
    """Whether the guest can go on on the destination's processor, through the QEMU that the destination chose."""
    if answer.cpu is None and any(finding.kind == "cpu" for finding in answer.findings):
        return ()  # it has said why it cannot tell
    if answer.cpu is None:
        return (
            Finding(
                severity=Severity.WARNING,
                kind="cpu",
                what=f"{answer.host.name} does not tell what its CPU can give: only the twin's `enforce` decides",
                remedy=f"update limosa on {answer.host.name}",
                side=Side.DESTINATION,
            ),
        )
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
