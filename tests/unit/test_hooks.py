"""What hooks are told, when they are tried again, and what a wrong setting says; no network, no clock."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from limosa.agent.config import load
from limosa.agent.hooks import signing
from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.findings import findings
from limosa.agent.hooks.program import environment
from limosa.agent.hooks.progress import (
    LONGEST,
    PATIENCE,
    Answer,
    Progress,
    after,
    delay,
    due,
    next_due,
    shown,
    take_in,
)
from limosa.agent.hooks.webhook import judge
from limosa.cli.hooks import hook_table, tried_table
from limosa.errors import UsageError
from limosa.migration.outbox import KEPT, Posted
from limosa.wire.hooks import HookEvent, HookShown, HookTried, stamp

FILE = HookConfig(file="/log")
NO = Answer(delivered=False, words="no")
YES = Answer(delivered=True, words="yes")
KEY = b"k" * 32


def posted(*subjects: str, first: int = 1, kind: str = "guest.moved") -> Sequence[Posted]:
    return [
        Posted(number=first + n, id=f"evt_{first + n}", subject=subject, kind=kind, at=0.0, body=b"{}")
        for n, subject in enumerate(subjects)
    ]


# -- when ---------------------------------------------------------------------------------------------------------


def test_attempts_come_further_and_further_apart_up_to_an_hour() -> None:
    assert [float(delay(n)) for n in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert [float(delay(n)) for n in (10, 11, 12, 10_000)] == [2560, 3600, 3600, 3600]


def test_an_event_is_tried_for_three_days_and_then_given_up() -> None:
    progress, now = take_in(Progress(seen=0), posted("u"), FILE), 1000.0
    while due(progress, now):
        progress = after(progress, due(progress, now)[0], NO, now, "evt_1")
        now = next_due(progress) or now
    assert progress.waiting == ()
    assert (progress.given_up, progress.given_up_event, progress.last_error) == (1, "evt_1", "no")
    assert PATIENCE - LONGEST < (progress.last_given_up or 0) - 1000.0 <= PATIENCE
    assert progress.failed > 72


def test_events_of_one_guest_arrive_in_order_and_do_not_wait_for_those_of_others() -> None:
    progress = take_in(Progress(seen=0), posted("u", "v", "u"), FILE)
    assert [w.number for w in due(progress, 0.0)] == [1, 2]
    progress = after(progress, due(progress, 0.0)[0], NO, 0.0, "evt_1")
    progress = after(progress, due(progress, 0.0)[0], YES, 0.0, "evt_2")
    assert due(progress, 4.9) == ()
    assert [w.number for w in due(progress, 5.0)] == [1]
    progress = after(progress, due(progress, 5.0)[0], YES, 5.0, "evt_1")
    assert [w.number for w in due(progress, 5.0)] == [3]
    assert (progress.delivered, progress.failed, progress.last_error) == (2, 1, "")


def test_a_receiver_that_asks_for_time_gets_it_up_to_an_hour() -> None:
    busy = judge(503, "later", "120")
    progress = take_in(Progress(seen=0), posted("u"), FILE)
    assert next_due(after(progress, progress.waiting[0], busy, 10.0, "evt_1")) == 130.0
    endless = judge(429, "", "99999999")
    assert next_due(after(progress, progress.waiting[0], endless, 10.0, "evt_1")) == 10.0 + LONGEST


@pytest.mark.parametrize(
    ("status", "delivered", "final"),
    [
        (200, True, False),
        (204, True, False),
        (301, False, False),
        (401, False, False),
        (404, False, False),
        (410, False, True),
        (429, False, False),
        (500, False, False),
    ],
)
def test_what_a_receiver_answers_decides_what_becomes_of_the_event(status: int, delivered: bool, final: bool) -> None:
    answer = judge(status, "  some\n text ", "Fri, 31 Dec 2027 23:59:59 GMT")
    assert (answer.delivered, answer.final, answer.not_before) == (delivered, final, 0.0)
    assert answer.words == f"HTTP {status}: some text"


def test_a_hook_hears_only_of_what_it_wants_and_never_of_the_same_event_again() -> None:
    hook = HookConfig(file="/log", events=("guest.lost", "guest.moved"))
    progress = take_in(Progress(seen=1), [*posted("u", "u"), *posted("u", first=3, kind="guest.move-failed")], hook)
    assert ([w.number for w in progress.waiting], progress.seen) == ([2], 3)
    assert take_in(progress, posted("u", "u"), hook) == progress
    assert HookConfig(file="/log", events=("guest.*",)).wants("guest.lost")


# -- signatures ---------------------------------------------------------------------------------------------------


def test_a_signature_is_the_one_of_standard_webhooks() -> None:
    made = signing.headers("evt_1", 1700000000, b'{"a":1}', [KEY])
    wanted = base64.b64encode(hmac.new(KEY, b'evt_1.1700000000.{"a":1}', hashlib.sha256).digest()).decode()
    assert made == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": f"v1,{wanted}",
    }


def test_two_keys_give_two_signatures_while_one_replaces_the_other() -> None:
    text = f"whsec_{base64.b64encode(KEY).decode()}\n{'x' * 24}\n"
    assert signing.keys(text) == (KEY, b"x" * 24)
    assert signing.headers("e", 1, b"", signing.keys(text))["webhook-signature"].count("v1,") == 2


@pytest.mark.parametrize(
    ("text", "why"), [("", "no key"), ("short", "24 bytes or more"), ("whsec_%%%", "not base64"), ("whsec_YQ==", "24")]
)
def test_a_key_that_would_protect_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        signing.keys(text)


# -- settings -----------------------------------------------------------------------------------------------------


def test_hooks_of_all_files_count_together(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'host = "a"\n[[hooks]]\nurl = "https://u:pw@ipam.example/limosa?token=x"\nsecret_file = "/s"\ntimeout = 3\n'
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/dns.toml").write_text('[[hooks]]\nname = "dns"\ncommand = ["/bin/dns", "-v"]\n')
    ipam, dns = load(tmp_path).hooks
    assert (ipam.called, ipam.kind, ipam.timeout) == ("https://ipam.example/limosa", "url", 3)
    assert (dns.called, dns.kind, dns.target) == ("dns", "command", "/bin/dns -v")


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("[[hooks]]\n", 1, "hooks: a hook has exactly one of url, command and file"),
        ('[[hooks]]\nfile = "/x"\nurl = "http://x"\n', 1, "exactly one of url, command and file"),
        ('[[hooks]]\nfile = "/x"\n[[hooks]]\nfile = "/y"\nfiles = "x"\n', 5, "files: no such key; there are name, url"),
        ('[[hooks]]\nfile = "/x"\n\n[[hooks]]\nfile = 3\n', 5, "file: Expected `str`, got `int`"),
        ('[[hooks]]\nurl = "ftp://x"\nsecret_file = "/s"\n', 1, "'ftp://x' is not a URL that can be called"),
        ('[[hooks]]\nurl = "http://x"\n', 1, "a url needs a secret_file"),
        ('[[hooks]]\nfile = "/x"\nsecret_file = "/s"\n', 1, "secret_file and ca go with url only"),
        ('[[hooks]]\ncommand = ["dns"]\n', 1, "'dns' must start with /"),
        ('[[hooks]]\nfile = "/x"\ntimeout = 0\n', 3, "timeout: Expected"),
        ('[[hooks]]\nfile = "/x"\n[[hooks]]\nfile = "/x"\n', 3, "two hooks are called /x"),
        ('[[hooks]]\nfile = "/x"\nevents = ["guest.movd"]\n', 1, "no event 'guest.movd'; there are guest.moved"),
        ("hooks = 3\n", 1, "hooks: Expected `array | null`"),
    ],
)
def test_a_wrong_hook_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load(tmp_path)
    assert error.value.what.startswith(f"{file}, line {line}: ")
    assert why in error.value.what


# -- what people and programs see ---------------------------------------------------------------------------------


def test_a_program_finds_the_main_parts_in_its_environment() -> None:
    data = {"guest": "web1", "host": "b", "epoch": 3, "macs": ["52:54:00:00:00:01", "52:54:00:00:00:02"]}
    told = environment(HookEvent(id="evt_1", type="guest.moved", timestamp="t", teller="b", data=data))
    assert told.pop("PATH")
    assert told == {
        "LIMOSA_EVENT_ID": "evt_1",
        "LIMOSA_EVENT": "guest.moved",
        "LIMOSA_TELLER": "b",
        "LIMOSA_GUEST": "web1",
        "LIMOSA_HOST": "b",
        "LIMOSA_EPOCH": "3",
        "LIMOSA_MACS": "52:54:00:00:00:01 52:54:00:00:00:02",
    }


def test_doctor_names_hooks_that_fail_and_events_that_nobody_will_hear_of() -> None:
    now = 10_000_000.0
    well = HookShown(name="ok", kind="file", target="/ok", delivered=9, waiting=1)
    failing = HookShown(name="dns", kind="url", target="x", waiting=2, oldest_waiting=0.0, last_error="HTTP 500")
    lost = HookShown(
        name="ipam", kind="url", target="x", given_up=1, last_given_up=now - 60, given_up_event="evt_7 (guest.moved, u)"
    )
    old = msgspec.structs.replace(lost, last_given_up=now - KEPT)
    said = [finding.what for finding in findings([well, failing, lost, old], now)]
    assert said[0].startswith("hook dns was not told of 2 events since 1970-01-01T00:00:00.000Z: HTTP 500")
    assert said[1].startswith("hook ipam was never told of 1 event, the last of them evt_7 (guest.moved, u)")
    assert len(said) == 2


def test_the_lists_of_hooks_read_well() -> None:
    assert "[[hooks]]" in hook_table([], 0.0)
    assert "[[hooks]]" in tried_table([])
    progress = Progress(seen=3, delivered=2, last_delivery=100.0)
    row = hook_table([shown(FILE, progress)], 190.0).splitlines()[1].split()
    assert row == ["/log", "file", "all", "0", "2", "0", "1", "min", "ago"]
    assert "exit status 3" in tried_table([HookTried(name="dns", delivered=False, answer="exit status 3", seconds=1)])


def test_times_are_told_in_utc() -> None:
    assert stamp(1772366400.25) == "2026-03-01T12:00:00.250Z"
