import msgspec
import pytest

from limosa.cli.doctor import page
from limosa.migration.diagnosis import diagnose, outranked, twins, why_left
from limosa.wire.doctor import Diagnosis, Facts, OldImage, OpenShown, Owned, Qemu, Standing, Thing, Weight
from limosa.wire.findings import Finding, Severity

UUID = "6d7a3a3e-6a3c-4e0e-9a0b-0d6a5b1f2c11"


def qemu(pid: int, state: str = "running", *, move: str | None = None, ours: bool = False) -> Qemu:
    return Qemu(pid=pid, name="web1", uuid=UUID, state=state, move=move, ours=ours)


def owned(epoch: int, *, here: bool, peer: str = "b") -> Owned:
    return Owned(identity=UUID, epoch=epoch, here=here, move="m1", peer=peer)


def thing(standing: Standing = Standing.CLOSED, **more: object) -> Thing:
    values = {"kind": "file", "name": "/srv/.x.limosa-m1", "move": "m1", "standing": standing} | more
    return msgspec.convert(values, Thing)


def opened(state: str, **more: str) -> OpenShown:
    return OpenShown(id="m1", side="source", guest="web1", identity=UUID, peer="b", state=state, **more)


def told(*hosts: Facts, **silent: str) -> list[tuple[str, str]]:
    return [(trouble.weight, trouble.what) for trouble in diagnose(hosts, silent)]


def test_a_healthy_fleet_has_no_troubles() -> None:
    a = Facts(host="a", qemus=(qemu(1),), owners=(owned(2, here=True),), moves=(opened("running"),))
    b = Facts(host="b", owners=(owned(1, here=False, peer="a"),))
    assert told(a, b) == []


def test_both_ends_of_one_move_are_one_guest() -> None:
    a = Facts(host="a", qemus=(qemu(1, move="m1"),))
    b = Facts(host="b", qemus=(qemu(1, "inmigrate", move="m1", ours=True),))
    assert told(a, b) == []


@pytest.mark.parametrize("there", ["a", "b"])
def test_a_uuid_that_runs_twice_is_an_error_that_names_every_place_and_state(there: str) -> None:
    a = Facts(host="a", qemus=(qemu(1), *((qemu(2),) if there == "a" else ())))
    b = Facts(host="b", qemus=() if there == "a" else (qemu(2),))
    ((weight, what),) = told(a, b)
    assert weight == Weight.ERROR
    assert what == f"UUID {UUID} runs 2 times: web1 on a (pid 1, running), web1 on {there} (pid 2, running)"


def test_a_second_qemu_that_is_paused_is_told_of_too() -> None:
    ((weight, what),) = told(Facts(host="a", qemus=(qemu(1), qemu(2, "paused"))))
    assert weight == Weight.ERROR
    assert "is in 2 QEMUs" in what


def test_a_twin_that_no_move_knows_is_a_stray_and_not_a_second_guest() -> None:
    b = Facts(host="b", qemus=(qemu(9, "inmigrate", ours=True),))
    assert [weight for weight, _ in told(Facts(host="a", qemus=(qemu(1),)), b)] == [Weight.WARNING]
    assert [twin.pid for twin in twins(b)] == [9]
    assert twins(Facts(host="b", qemus=(qemu(9, "inmigrate", ours=False),))) == ()
    assert twins(Facts(host="b", qemus=(qemu(9, "inmigrate", ours=True, move="m1"),))) == ()


def test_journals_that_contradict_each_other_or_what_runs_are_errors() -> None:
    a, b = Facts(host="a", owners=(owned(3, here=True),)), Facts(host="b", owners=(owned(3, here=True),))
    ((weight, what),) = told(a, b)
    assert (weight, "a at epoch 3, b at epoch 3" in what) == (Weight.ERROR, True)
    left = Facts(host="a", qemus=(qemu(1, "postmigrate"),), owners=(owned(3, here=False),))
    ((weight, what),) = told(left)
    assert (weight, what) == (Weight.ERROR, "web1 (pid 1, postmigrate) is on a, which gave it up to b at epoch 3")


def test_a_journal_is_outranked_by_a_later_epoch_elsewhere_unless_the_guest_runs_here() -> None:
    a, b = Facts(host="a", owners=(owned(3, here=True),)), Facts(host="b", owners=(owned(2, here=True, peer="a"),))
    assert outranked(b, [a]) == (owned(3, here=False, peer="a"),)
    assert outranked(a, [b]) == ()
    assert outranked(msgspec.structs.replace(b, qemus=(qemu(1),)), [a]) == ()
    assert outranked(b, [Facts(host="a", owners=(owned(2, here=True),))]) == ()
    assert outranked(b, [Facts(host="a", owners=(owned(3, here=False),))]) == ()


def test_a_doubt_says_what_it_waits_for_and_what_to_do() -> None:
    (trouble,) = diagnose([Facts(host="a", moves=(opened("in doubt", waits_for="b is silent", remedy="ask b"),))], {})
    assert (trouble.weight, trouble.remedy) == (Weight.ERROR, "ask b")
    assert "b is silent" in trouble.what


def test_hosts_that_are_silent_and_certificates_are_told_of() -> None:
    finding = Finding(severity=Severity.BLOCKS, kind="pki", what="it expired", remedy="renew")
    assert told(Facts(host="a", findings=(finding,)), b="no route") == [
        (Weight.ERROR, "it expired"),
        (Weight.WARNING, "b could not be asked: no route"),
    ]


def test_old_images_are_a_note_and_leave_a_host_clean() -> None:
    facts = Facts(host="a", old_images=(OldImage(path="/srv/x.limosa-m1", move="m1", size=4096),))
    troubles = diagnose([facts], {})
    assert Diagnosis(hosts=(facts,), troubles=troubles).clean
    assert "1 old images, 4.0 KiB" in page(Diagnosis(hosts=(facts,), troubles=troubles))


@pytest.mark.parametrize(
    ("stray", "why"),
    [
        (thing(), ""),
        (thing(Standing.UNKNOWN), ""),
        (thing(Standing.OPEN), "move m1 is open"),
        (thing(held_by="qemu (pid 3)"), "qemu (pid 3) uses it"),
        (thing(doubt="it may be a guest's image"), "it may be a guest's image"),
        (thing(whole_host=False), "it is on storage that other hosts may see, and c could not be asked"),
    ],
)
def test_only_what_is_proved_unused_is_removed(stray: Thing, why: str) -> None:
    assert why_left(stray, [Facts(host="b")], ["c"]) == why


def test_a_move_that_another_host_has_open_keeps_its_things() -> None:
    assert why_left(thing(), [Facts(host="b", moves=(opened("running"),))], ()) == "move m1 is open on b"


def test_strays_are_troubles_unless_they_are_in_use() -> None:
    assert told(Facts(host="a", things=(thing(held_by="qemu (pid 3)"), thing(Standing.OPEN)))) == []
    ((_, what),) = told(Facts(host="a", things=(thing(),)))
    assert what == "stray file /srv/.x.limosa-m1 of move m1, which is closed"
