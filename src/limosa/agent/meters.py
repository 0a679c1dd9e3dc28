"""What is counted while it happens, for Prometheus: moves as they end, and calls to other hosts.

Every name and label is in docs/metrics.md. No label names a guest, and each has few values: a host that moves ten
thousand guests has as many series as one that moves two.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from limosa.errors import MoveAborted, MoveFailed
from limosa.units import Side
from limosa.wire.hooks import HookShown
from limosa.wire.moves import Measured, MoveState, MoveStatus, Stage

PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: from a pause that nobody can measure to one that ends TCP connections."""
DURATIONS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)
"""Seconds: from an idle guest without disks to terabytes over a thin link."""
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.1, 1.33, 2.0, 4.0)

NO_CAUSE = "none"
_FIRST = (
    (MoveState.COMPLETED, NO_CAUSE),
    (MoveState.FAILED, MoveFailed.code),
    (MoveState.ABORTED, MoveAborted.code),
)
"""Series that are there from the start: `increase()` does not see a counter's first value."""


def gauge(
    name: str, words: str, samples: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...] = ()
) -> GaugeMetricFamily:
    """A gauge as it is now: values, each with those of `labels`."""
    family = GaugeMetricFamily(name, words, labels=labels)
    for of, value in samples:
        family.add_metric(of, value)
    return family


def alone(name: str, words: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return gauge(name, words, [((), value)])


def exposed(told: Collector) -> bytes:
    """What a scrape is answered, in Prometheus' text format."""
    return generate_latest(_WithoutBirthdays(told))


class _WithoutBirthdays(Collector):
    """Leaves out when each series was made (`…_created`): Prometheus does not use it, and it doubles the answer."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def of_hooks(hooks: Iterable[HookShown]) -> Iterator[Metric]:
    """How hooks fare; the counts are of their records, and outlive a restart."""
    told = tuple(hooks)
    counts = CounterMetricFamily("limosa_hook_deliveries", "Events told to a hook, or not.", labels=("hook", "outcome"))
    for hook in told:
        for outcome, count in (("delivered", hook.delivered), ("failed", hook.failed), ("given up", hook.given_up)):
            counts.add_metric((hook.name, outcome), count)
    yield counts
    waiting = [((hook.name,), hook.waiting) for hook in told]
    yield gauge("limosa_hook_waiting", "Events that are still to be told to a hook.", waiting, ("hook",))


class MoveMeters:
    """Moves that have left, or should have left, this host. The source counts; the destination does not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._moves = Counter("limosa_moves", "Moves that are over.", ("outcome", "cause"), registry=registry)
        self._rollbacks = Counter(
            "limosa_move_rollbacks", "Moves that were rolled back to this host.", ("cause",), registry=registry
        )
        self._bytes = Counter("limosa_move_bytes", "Bytes of completed moves.", ("what",), registry=registry)
        self._stages = Counter(
            "limosa_move_stage_seconds", "Time that completed moves spent.", ("stage",), registry=registry
        )
        self._duration = Histogram(
            "limosa_move_duration_seconds", "Whole time of completed moves.", buckets=DURATIONS, registry=registry
        )
        self._blackout = Histogram(
            "limosa_move_blackout_seconds",
            "Pause of completed moves: stopped here to started there.",
            buckets=PAUSES,
            registry=registry,
        )
        self._downtime = Histogram(
            "limosa_move_downtime_seconds",
            "Pause of completed moves, as QEMU counts it.",
            buckets=PAUSES,
            registry=registry,
        )
        self._ratio = Histogram(
            "limosa_move_duration_prediction_ratio",
            "Measured by predicted duration of completed moves.",
            buckets=RATIOS,
            registry=registry,
        )
        for outcome, cause in _FIRST:
            self._moves.labels(outcome, cause)
        for cause in (MoveFailed.code, MoveAborted.code):
            self._rollbacks.labels(cause)
        for stage in Stage:
            self._stages.labels(stage)
        for what in ("ram", "disk"):
            self._bytes.labels(what)

    def count(self, report: MoveStatus) -> None:
        """Count a move that is over."""
        cause = _cause(report.error)
        self._moves.labels(report.state, cause).inc()
        if report.undone and report.guest_runs is Side.SOURCE:
            self._rollbacks.labels(cause).inc()
        if report.state is MoveState.COMPLETED and report.measured is not None:
            self._measure(report.measured)
            if report.prediction is not None and report.prediction.seconds:
                self._ratio.observe(report.measured.total_seconds / report.prediction.seconds)

    def _measure(self, measured: Measured) -> None:
        self._duration.observe(measured.total_seconds)
        self._bytes.labels("ram").inc(measured.ram_bytes)
        self._bytes.labels("disk").inc(measured.disk_bytes)
        for stage, seconds in measured.stage_seconds.items():
            self._stages.labels(stage).inc(seconds)
        if measured.blackout_ms is not None:
            self._blackout.observe(measured.blackout_ms / 1000)
        if measured.qemu_downtime_ms is not None:
            self._downtime.observe(measured.qemu_downtime_ms / 1000)


def _cause(error: Mapping[str, object] | None) -> str:
    return str(error["code"]) if error else NO_CAUSE


class CallMeters:
    """Calls that this process makes to agents of other hosts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter("limosa_rpc_calls", "Calls that ended, well or not.", ("method",), registry=registry)
        self._errors = Counter("limosa_rpc_errors", "Calls that failed.", ("method", "cause"), registry=registry)

    def heard(self, method: str, cause: str) -> None:
        """A call ended (`limosa.agent.link.Heard`)."""
        self._calls.labels(method).inc()
        if cause:
            self._errors.labels(method, cause).inc()
