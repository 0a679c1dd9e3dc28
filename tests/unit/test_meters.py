"""What is counted of moves that are over."""

from prometheus_client import CollectorRegistry, generate_latest

from limosa.agent.meters import CallMeters, MoveMeters, of_hooks
from limosa.errors import MonitorLost, MoveAborted
from limosa.testing.moves import status
from limosa.units import Side
from limosa.wire.hooks import HookShown
from limosa.wire.moves import Measured, MoveState, MoveStatus, Prediction, Stage


def report(state: MoveState, **more: object) -> MoveStatus:
    return status(state, Stage.RETIRE, elapsed=6.0, **more)


def measured(**more: object) -> Measured:
    told: dict[str, object] = {
        "total_seconds": 6.0,
        "stage_seconds": {"copy": 5.0, "switch over": 0.1},
        "blackout_ms": 70.0,
        "qemu_downtime_ms": 45.0,
        "ram_bytes": 500,
        "disk_bytes": 60,
        "throughput": 1e8,
        "passes": 3,
        "compared": 1210,
    }
    return Measured(**told | more)  # type: ignore[arg-type]


def counted(*reports: MoveStatus) -> CollectorRegistry:
    registry = CollectorRegistry()
    meters = MoveMeters(registry)
    for each in reports:
        meters.count(each)
    return registry


def test_a_completed_move_is_counted_timed_and_held_against_its_prediction() -> None:
    forecast = Prediction(seconds=4.0, bytes=1, blackout_ms=30.0, converges=True, why="")
    done = report(
        MoveState.COMPLETED, measured=measured(), prediction=forecast, guest_runs=Side.DESTINATION, undone=("Close",)
    )
    seen = counted(done, done).get_sample_value
    assert seen("limosa_moves_total", {"outcome": "completed", "cause": "none"}) == 2
    assert seen("limosa_move_duration_seconds_sum") == 12.0
    assert seen("limosa_move_blackout_seconds_bucket", {"le": "0.1"}) == 2
    assert seen("limosa_move_blackout_seconds_bucket", {"le": "0.05"}) == 0
    assert seen("limosa_move_downtime_seconds_bucket", {"le": "0.05"}) == 2
    assert [seen("limosa_move_bytes_total", {"what": what}) for what in ("ram", "disk")] == [1000, 120]
    assert seen("limosa_move_stage_seconds_total", {"stage": "copy"}) == 10.0
    assert seen("limosa_move_duration_prediction_ratio_sum") == 3.0
    assert seen("limosa_move_rollbacks_total", {"cause": "move-failed"}) == 0, "nothing went back"


def test_a_move_that_went_back_is_a_rollback_and_one_that_never_began_is_none() -> None:
    lost = report(MoveState.FAILED, error=MonitorLost("gone").to_wire(), undone=("StartTwin",))
    blocked = report(MoveState.BLOCKED, error={"code": "blocked"})
    seen = counted(lost, blocked).get_sample_value
    assert seen("limosa_moves_total", {"outcome": "failed", "cause": "monitor-lost"}) == 1
    assert seen("limosa_moves_total", {"outcome": "blocked", "cause": "blocked"}) == 1
    assert seen("limosa_move_rollbacks_total", {"cause": "monitor-lost"}) == 1
    assert seen("limosa_move_rollbacks_total", {"cause": "blocked"}) is None
    assert seen("limosa_move_duration_seconds_count") == 0, "times are those of completed moves"


def test_a_move_whose_agent_was_restarted_is_counted_without_its_times() -> None:
    seen = counted(report(MoveState.COMPLETED, measured=None)).get_sample_value
    assert seen("limosa_moves_total", {"outcome": "completed", "cause": "none"}) == 1
    assert seen("limosa_move_duration_seconds_count") == 0


def test_a_paused_guest_has_no_pause_to_be_counted() -> None:
    done = report(MoveState.COMPLETED, measured=measured(blackout_ms=None, qemu_downtime_ms=None))
    seen = counted(done).get_sample_value
    assert seen("limosa_move_blackout_seconds_count") == seen("limosa_move_downtime_seconds_count") == 0
    assert seen("limosa_move_duration_seconds_count") == 1


def test_what_usually_happens_is_there_before_it_happens_first() -> None:
    seen = counted().get_sample_value
    for outcome, cause in (("completed", "none"), ("failed", "move-failed"), ("aborted", MoveAborted.code)):
        assert seen("limosa_moves_total", {"outcome": outcome, "cause": cause}) == 0


def test_no_series_names_a_guest() -> None:
    text = generate_latest(counted(report(MoveState.COMPLETED, measured=measured()))).decode()
    assert "web1" not in text
    assert "6b1d2c9e" not in text


def test_calls_are_counted_and_those_that_fail_by_cause() -> None:
    registry = CollectorRegistry()
    calls = CallMeters(registry)
    for cause in ("", "", "peer"):
        calls.heard("fleet.start", cause)
    assert registry.get_sample_value("limosa_rpc_calls_total", {"method": "fleet.start"}) == 3
    assert registry.get_sample_value("limosa_rpc_errors_total", {"method": "fleet.start", "cause": "peer"}) == 1


def test_hooks_are_counted_by_what_became_of_their_events() -> None:
    dns = HookShown(name="dns", kind="command", target="/dns", delivered=5, failed=3, given_up=1, waiting=2)
    told = {(s.name, *s.labels.values()): s.value for metric in of_hooks([dns]) for s in metric.samples}
    assert told == {
        ("limosa_hook_deliveries_total", "dns", "delivered"): 5,
        ("limosa_hook_deliveries_total", "dns", "failed"): 3,
        ("limosa_hook_deliveries_total", "dns", "given up"): 1,
        ("limosa_hook_waiting", "dns"): 2,
    }
