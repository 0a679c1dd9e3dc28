from limosa.cargo.kind import CargoStep, Streams, When
from limosa.migration.plan import arrange, rehearsal
from limosa.migration.steps import (
    CheckShape,
    Close,
    Commit,
    CompareTwin,
    HandOver,
    Precopy,
    Reserve,
    ResumeThere,
    RetireSource,
    ShareKey,
    StartTwin,
    Step,
    name_of,
    stage_of,
    summary_of,
)
from limosa.units import Side
from limosa.wire.moves import Stage

TLS = Streams(address="10.0.0.2", nbd_port=49152, migration_port=49153, tls_creds="limosa-tls")
PLAIN = Streams(address="fd00::2", nbd_port=49152, migration_port=49153, tls_creds=None)


def cargo(when: When) -> CargoStep:
    return CargoStep(kind="disks", deed="x", side=Side.SOURCE, when=when, summary=when, arguments={})


def plan(streams: Streams = TLS, *, running: bool = True) -> tuple[Step, ...]:
    # Handed over in the wrong order on purpose: `when` alone decides.
    steps = [cargo(when) for when in reversed(When)]
    return arrange(steps, streams, memory=1, monitor="/run/x", channels=0, running=running)


def test_a_live_move_reads_as_it_happens() -> None:
    words = [s.when if isinstance(s, CargoStep) else type(s) for s in plan()]
    assert words == [
        Reserve,
        ShareKey,
        When.BEFORE_TWIN,
        StartTwin,
        CompareTwin,
        When.COPY,
        When.BEFORE_RAM,
        CheckShape,
        Precopy,
        When.PAUSED,
        HandOver,
        Commit,
        When.BEFORE_CONT,
        ResumeThere,
        When.ANNOUNCE,
        RetireSource,
        When.RETIRE,
        Close,
    ]


def test_plaintext_needs_no_key() -> None:
    assert not [s for s in plan(PLAIN) if isinstance(s, ShareKey)]


def test_an_ipv6_address_is_bracketed_in_the_uri() -> None:
    assert [s.uri for s in plan(PLAIN) if isinstance(s, Precopy)] == ["tcp:[fd00::2]:49153"]


def test_a_paused_guest_stays_paused() -> None:
    assert [s.cont for s in plan(running=False) if isinstance(s, ResumeThere)] == [False]


def test_a_rehearsal_ends_with_the_comparison_and_copies_nothing() -> None:
    tried = rehearsal(plan())
    assert isinstance(tried[-1], CompareTwin)
    assert not {Stage.COPY, Stage.SWITCH_OVER, Stage.COMMIT} & {stage_of(s) for s in tried}


def test_stages_come_in_their_order() -> None:
    order = list(Stage)
    stages = [order.index(stage_of(s)) for s in plan()]
    assert stages == sorted(stages)


def test_every_step_has_a_name_and_a_sentence() -> None:
    assert [name_of(s) for s in plan() if not isinstance(s, CargoStep)] == [
        "reserve",
        "share key",
        "start twin",
        "compare twin",
        "check shape",
        "precopy",
        "hand over",
        "commit",
        "resume there",
        "retire source",
        "close",
    ]
    assert all(summary_of(s) for s in plan())
