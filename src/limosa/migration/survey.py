"""Everything that is looked at before a move, at both ends; nothing is changed."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from limosa.cargo.kind import HostFacts, Kind
from limosa.errors import Blocked
from limosa.guest.profile import Profile
from limosa.migration.convergence import channels_for
from limosa.migration.cpu import cpu_findings
from limosa.migration.ends import Destination, OfferAnswer, OfferAsk
from limosa.migration.plan import arrange, cargo_steps, rewritten, unclaimed
from limosa.migration.precopy import DEFAULT_DOWNTIME_LIMIT
from limosa.migration.predict import predict
from limosa.migration.steps import Step
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity, blocking
from limosa.wire.moves import MoveRequest, Prediction
from limosa.wire.rpc import Caller

MOVABLE_STATES = frozenset({"running", "paused", "suspended"})
"""Run states in which a guest can be taken along (qapi/run-state.json, RunState)."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found out about one move."""

    profile: Profile
    twin_profile: Profile
    answer: OfferAnswer
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    prediction: Prediction

    def require_possible(self, request: MoveRequest) -> None:
        """Refuse the move if anything blocks it.

        Raises:
            Blocked: names every finding that does.
        """
        if stops := blocking(self.findings, request.allow):
            raise Blocked(
                "; ".join(f.what for f in stops),
                guest_runs=Side.SOURCE,
                remedy="; ".join(dict.fromkeys(_remedy(f) for f in stops if _remedy(f))),
            )


async def assess(
    request: MoveRequest,
    move: MoveId,
    profile: Profile,
    monitor: Monitor,
    host: HostFacts,
    destination: Destination,
    kinds: Mapping[str, Kind],
    *,
    caller: Caller,
    cpus: int,
    rate: float | None,
) -> Assessment:
    """Run every check at both ends, choose every name, and arrange the steps.

    `caller` is the link to the destination, `rate` what it is known to carry, in bytes per second.

    Raises:
        Blocked: so much is wrong that no plan can be made.
        PeerError: the destination cannot be asked.
    """
    if profile.status not in MOVABLE_STATES:
        raise Blocked(
            f"{profile.name} is {profile.status}: only a running, paused or suspended guest can be moved live",
            guest_runs=Side.SOURCE,
            remedy="start it, or wait until what it is doing is over",
        )
    claimed = {kind.name: kind for kind in kinds.values() if kind.claims(profile)}
    surveys = tuple(await asyncio.gather(*(k.check_source(profile, host, request, monitor) for k in claimed.values())))
    # What blocks here is said before the other host is bothered, but together with what it finds.
    ask = OfferAsk(move=move, request=request, profile=profile, surveys=surveys, source=host)
    answer = _located(await destination.offer(ask), caller)
    findings = (
        *unclaimed(profile, kinds),
        *(f for survey in surveys for f in survey.findings),
        *cpu_findings(profile, answer),
        *answer.findings,
        *(f for offer in answer.offers for f in offer.findings),
        *_manner(request, answer),
    )
    twin = profile
    steps: tuple[Step, ...] = ()
    if not blocking(findings, request.allow):
        twin = rewritten(profile, answer.offers, kinds)
        steps = arrange(
            cargo_steps(twin, answer.offers, answer.streams, kinds),
            answer.streams,
            memory=_all_memory(profile),
            monitor=answer.monitor,
            channels=channels_for(profile.memory.size, cpus, request.channels),
            running=profile.status == "running",
        )
    prediction = predict_for(request, profile, answer, rate=rate, dirty_rate=None)
    return Assessment(profile, twin, answer, findings, steps, prediction)


async def obstacles(
    profile: Profile, monitor: Monitor, host: HostFacts, kinds: Mapping[str, Kind]
) -> tuple[Finding, ...]:
    """What stands against any move of this guest, wherever it would go; what can be allowed does not count."""
    request = MoveRequest(guest=profile.name, to="")
    claimed = [kind for kind in kinds.values() if kind.claims(profile)]
    surveys = await asyncio.gather(*(kind.check_source(profile, host, request, monitor) for kind in claimed))
    found = (*unclaimed(profile, kinds), *(finding for survey in surveys for finding in survey.findings))
    return tuple(finding for finding in blocking(found) if finding.consent is None)


def _located(answer: OfferAnswer, caller: Caller) -> OfferAnswer:
    """The answer with the distance, and with an address for bulk data where the destination names none."""
    streams = msgspec.structs.replace(
        answer.streams,
        address=answer.streams.address or caller.peer_address,
        round_trip=caller.round_trip or 0.0,
    )
    return msgspec.structs.replace(answer, streams=streams)


def _remedy(finding: Finding) -> str:
    if finding.consent is None:
        return finding.remedy
    allow = f"--allow {finding.consent} accepts it"
    return f"{finding.remedy}, or {allow}" if finding.remedy else allow


def _manner(request: MoveRequest, answer: OfferAnswer) -> tuple[Finding, ...]:
    if not request.insecure_plaintext:
        return ()
    return (
        Finding(
            severity=Severity.WARNING,
            kind="limosa",
            what=f"memory and disks go to {answer.host.name} unencrypted and unauthenticated",
            remedy="leave out --insecure-plaintext",
        ),
    )


def _all_memory(profile: Profile) -> int:
    plugged = sum(int(o.properties.get("size", 0)) for o in profile.objects if o.type.startswith("memory-backend-"))
    return max(profile.memory.size, plugged) if profile.memory.backend else profile.memory.size + plugged


def predict_for(
    request: MoveRequest, profile: Profile, answer: OfferAnswer, *, rate: float | None, dirty_rate: float | None
) -> Prediction:
    """What this move is expected to cost; rates in bytes per second, None where they are not known."""
    rates = [known for known in (request.bandwidth, rate) if known]
    return predict(
        memory=_all_memory(profile),
        disks=sum(_bytes_to_copy(offer.chosen) for offer in answer.offers),
        rate=min(rates) if rates else None,
        dirty_rate=dirty_rate,
        downtime_limit=request.downtime_limit or DEFAULT_DOWNTIME_LIMIT,
        running=profile.status == "running",
    )


def _bytes_to_copy(chosen: Mapping[str, object]) -> int:
    told = chosen.get("bytes_to_copy", 0)
    return told if isinstance(told, int) else 0


async def sample_dirty_rate(profile: Profile, monitor: Monitor) -> float | None:
    """Bytes per second that the guest dirties, sampled for a second.

    Page sampling works everywhere; the dirty-bitmap mode crashes QEMU 7.2 under TCG (docs/qemu-notes.md).
    """
    if profile.status != "running":
        return None
    await monitor.execute("calc-dirty-rate", {"calc-time": 1})
    deadline = asyncio.get_running_loop().time() + 5
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.2)  # QEMU has no event for the end of a measurement
        told = await monitor.execute("query-dirty-rate")
        if told["status"] == "measured":
            return float(told["dirty-rate"]) * 2**20
    return None
