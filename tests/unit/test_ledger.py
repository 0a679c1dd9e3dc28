import msgspec
from hypothesis import given
from hypothesis import strategies as st

from limosa.agent import ledger as ledger_module
from limosa.agent.ledger import Ledger
from limosa.wire.guests import GuestShown
from limosa.wire.reports import GuestReport, Known, MachineReport, Report


def machine(free: int = 0) -> MachineReport:
    return MachineReport(
        host="a",
        version="1",
        cores=2,
        memory=8,
        memory_free=free,
        disk=0,
        disk_free=0,
        link=0.0,
        networks=(),
        qemu_versions=(),
        cpu=None,
    )


def guest(key: str, load: float = 0.0) -> GuestReport:
    shown = GuestShown(
        name=key,
        uuid=key,
        pid=1,
        host="a",
        state="running",
        memory=1,
        vcpus=1,
        owner="by hand",
        monitor=None,
        movable="yes",
    )
    return GuestReport(key=key, shown=shown, epoch=0, here=True, cpu=None, disk=0, networks=(), load=load, blocked=())


class Reader:
    """What a controller would know."""

    def __init__(self) -> None:
        self.known: Known | None = None
        self.machine: MachineReport | None = None
        self.guests: dict[str, GuestReport] = {}

    def take(self, report: Report) -> None:
        if report.since == 0:
            self.guests, self.machine = {}, None
        else:
            assert self.known == Known(report.incarnation, report.since)
        self.machine = report.machine or self.machine
        self.guests |= {each.key: each for each in report.guests}
        for key in report.gone:
            self.guests.pop(key, None)
        self.known = Known(report.incarnation, report.number)


HOSTS = st.dictionaries(st.sampled_from("uvwxyz"), st.integers(0, 2), max_size=4)


@given(st.lists(st.tuples(st.integers(0, 1), HOSTS, st.booleans()), max_size=12), st.integers(0, 3))
def test_whoever_follows_with_gaps_knows_what_is_there(
    history: list[tuple[int, dict[str, int], bool]], forget: int
) -> None:
    kept, ledger_module.FORGET = ledger_module.FORGET, forget
    try:
        ledger, reader = Ledger("one"), Reader()
        for free, loads, asks in history:
            here = {key: guest(key, float(load)) for key, load in loads.items()}
            ledger.note(machine(free), here)
            if asks:
                reader.take(ledger.since(reader.known))
                assert (reader.machine, reader.guests) == (machine(free), here)
    finally:
        ledger_module.FORGET = kept


def test_only_what_changed_is_told() -> None:
    ledger = Ledger("one")
    assert ledger.note(machine(), {"u": guest("u"), "v": guest("v")})
    assert not ledger.note(machine(), {"u": guest("u"), "v": guest("v")})
    assert ledger.note(machine(), {"u": guest("u", 1.0)})
    report = ledger.since(Known("one", 1))
    assert (report.since, report.number, report.machine) == (1, 2, None)
    assert (report.guests, report.gone) == ((guest("u", 1.0),), ("v",))


def test_who_knows_another_run_of_the_agent_is_told_everything() -> None:
    ledger = Ledger("two")
    ledger.note(machine(), {"u": guest("u")})
    for known in (None, Known("one", 1), Known("two", 9)):
        report = ledger.since(known)
        assert (report.since, report.machine, report.guests) == (0, machine(), (guest("u"),))


def test_a_report_crosses_the_wire_unchanged() -> None:
    ledger = Ledger("one")
    ledger.note(machine(), {"u": guest("u")})
    report = ledger.since(None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
