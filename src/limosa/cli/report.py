"""What a move came to, and what a plan says, as pages to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from limosa.cli.failure import three_lines
from limosa.cli.table import pairs, table
from limosa.errors import LimosaError, MoveAborted, from_wire
from limosa.history.words import place_of
from limosa.units import format_count, format_rate, format_size
from limosa.wire.findings import Finding, Severity, blocking
from limosa.wire.moves import Measured, MoveState, MoveStatus, PlanShown, Prediction, Stage

_SEVERITIES = {
    Severity.BLOCKS: "blocks the move",
    Severity.WARNING: "worth knowing before",
    Severity.NOTE: "notes",
}


def failure_of(status: MoveStatus) -> LimosaError | None:
    """The error of a move that is over; None where it completed."""
    if status.state is MoveState.COMPLETED:
        return None
    if status.error is not None:
        return from_wire(status.error)
    what = f"the move of {status.guest} to {status.destination} ended as {status.state}"
    if status.state is MoveState.ABORTED:
        return MoveAborted(what, guest_runs=status.guest_runs, remedy=f"limosa migrate {status.guest} --to HOST")
    return LimosaError(what, guest_runs=status.guest_runs)


def report(status: MoveStatus) -> str:
    """The end of a move: the measured numbers beside the predicted ones, or the error and what was undone."""
    failure = failure_of(status)
    if failure is not None:
        parts = [three_lines(failure, place_of(status))]
    else:
        parts = [f"{status.guest} moved from {status.source} to {status.destination}; {place_of(status)}"]
    if status.undone:
        parts.append("undone\n" + "\n".join(f"  {what}" for what in status.undone))
    if failure is not None and (notable := blocking(status.findings)):
        parts.append(findings_page(notable))
    if status.measured is not None:
        parts.extend(_measured(status, status.measured))
    noticed = (finding.what for finding in status.findings if finding.severity is Severity.WARNING)
    if warnings := list(dict.fromkeys((*status.warnings, *noticed))):
        parts.append("\n".join(f"warning: {warning}" for warning in warnings))
    return "\n\n".join(parts)


def _measured(status: MoveStatus, measured: Measured) -> Iterator[str]:
    if measured.stage_seconds:
        order = [str(stage) for stage in Stage]
        known = sorted(
            measured.stage_seconds.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99
        )
        yield table(("STAGE", "SECONDS"), [(s, f"{t:.3f}") for s, t in known], right=("SECONDS",), indent="  ")
    yield pairs(_numbers(measured, status.prediction))
    if measured.disks:
        yield "disks\n" + pairs((name, disk_words(facts)) for name, facts in measured.disks.items())


def _numbers(measured: Measured, predicted: Prediction | None) -> Iterator[tuple[str, str]]:
    yield "took", f"{measured.total_seconds:.2f} s" + _beside(_seconds(predicted.seconds) if predicted else None)
    total = measured.ram_bytes + measured.disk_bytes
    passes = format_count(measured.passes, "pass", "passes")
    yield (
        "copied",
        f"{format_size(total)}: RAM {format_size(measured.ram_bytes)} in {passes}, "
        f"disks {format_size(measured.disk_bytes)}" + _beside(format_size(predicted.bytes) if predicted else None),
    )
    yield "throughput", format_rate(measured.throughput)
    if measured.blackout_ms is not None:
        yield (
            "blackout",
            f"{measured.blackout_ms:.1f} ms" + _beside(f"{predicted.blackout_ms:.0f} ms" if predicted else None),
        )
    if measured.qemu_downtime_ms is not None:
        yield "downtime", f"{measured.qemu_downtime_ms:.0f} ms, as QEMU counts it"
    yield "compared", f"{measured.compared} guest-visible properties, equal"


def disk_words(facts: dict[str, Any]) -> str:
    """Facts of one disk in one line; what is called bytes or size is written as one."""
    return ", ".join(f"{name.replace('_', ' ')} {_fact(name, value)}" for name, value in facts.items())


def _fact(name: str, value: Any) -> str:
    sized = isinstance(value, int) and not isinstance(value, bool) and ("bytes" in name or "size" in name)
    return format_size(value) if sized else str(value)


def _beside(predicted: str | None) -> str:
    return f" (predicted {predicted})" if predicted else ""


def _seconds(seconds: float | None) -> str:
    return "no end" if seconds is None else f"{seconds:.1f} s"


def plan_page(plan: PlanShown, allowed: Sequence[str] = ()) -> str:
    """What `limosa plan` prints."""
    parts = [_verdict(plan)]
    if plan.findings:
        parts.append(findings_page(plan.findings, allowed))
    if plan.compared:
        parts.append(f"twin: started at {plan.destination}; {plan.compared} guest-visible properties compared, equal")
    if plan.differences:
        # A twin that the guest could tell from the original is an error, not a plan.
        parts.append("only the host sees\n" + "\n".join(f"  {difference}" for difference in plan.differences))
    if plan.rewrites:
        parts.append("host-side names that change\n" + table(("HERE", "THERE"), plan.rewrites, indent="  "))
    if plan.steps:
        rows = [(step.stage, step.side, step.summary or step.name) for step in plan.steps]
        parts.append("steps\n" + table(("STAGE", "SIDE", "WHAT"), rows, indent="  "))
    if plan.prediction is not None:
        parts.append(_prediction(plan.prediction))
    return "\n\n".join(parts)


def _verdict(plan: PlanShown) -> str:
    way = f"{plan.guest} ({plan.uuid}) from {plan.source} to {plan.destination}"
    return f"{way}: can move" if plan.possible else f"{way}: cannot move as asked; nothing was changed"


def findings_page(findings: Sequence[Finding], allowed: Sequence[str] = ()) -> str:
    """Findings by severity, worst first, with remedies and the words that would allow them."""
    groups = []
    for severity, title in _SEVERITIES.items():
        found = [finding for finding in findings if finding.severity is severity]
        if found:
            groups.append(title + "\n" + "\n".join(_finding(finding, allowed) for finding in found))
    return "\n\n".join(groups)


def _finding(finding: Finding, allowed: Sequence[str]) -> str:
    side = f", {finding.side}" if finding.side else ""
    lines = [f"  {finding.what}  [{finding.kind}{side}]"]
    if finding.remedy:
        lines.append(f"    to do: {finding.remedy}")
    if finding.consent:
        spoken = finding.consent in allowed
        lines.append(f"    allowed with --allow {finding.consent}" if spoken else f"    or: --allow {finding.consent}")
    return "\n".join(lines)


def _prediction(prediction: Prediction) -> str:
    if not prediction.converges:
        return f"prediction: it will not converge: {prediction.why}"
    return (
        f"prediction: {_seconds(prediction.seconds)}, {format_size(prediction.bytes)}, "
        f"a pause of {prediction.blackout_ms:.0f} ms\n  {prediction.why}"
    )
