"""What pages of the dashboard say, held against what the API says of the same thing at the same moment."""

from collections import Counter, defaultdict
from typing import Any

from limosa.testing.chromium import Tab
from limosa.testing.simulation import Api
from limosa.web import words

Told = dict[str, Any]


def same_fleet(tab: Tab, api: Api) -> None:
    """The map has a tile for each host, with its state, how much memory is given, and its number of guests."""
    tab.until(lambda: _same_fleet(tab, api))


def _same_fleet(tab: Tab, api: Api) -> None:
    script = "return [...document.querySelectorAll('a.tile')].map(tile => tile.title)"
    said = {title.split(",")[0]: title for title in tab.ask(script)}
    hosts, memory = api.all("hosts"), _memory(api)
    assert len(said) == len(hosts)
    for host in hosts:
        title, full = said[host["name"]], words.percent(memory[host["name"]] / host["memory"])
        assert title.startswith(f"{host['name']}, {host['state']}"), title
        assert f"memory {full}, {words.count(host['guests'], 'guest')}" in title, title


def _memory(api: Api) -> Counter[str]:
    given: Counter[str] = Counter()
    for guest in api.all("guests"):
        given[guest["host"]] += guest["memory"] or 0
    return given


def same_host(tab: Tab, api: Api, name: str) -> None:
    """The page of a host has its state, what is given of it, and its guests, by name, state, vCPUs and memory."""
    tab.until(lambda: _same_host(tab, api, name))


def _same_host(tab: Tab, api: Api, name: str) -> None:
    host, guests = api.get(f"hosts/{name}"), api.all("guests", f"host={name}")
    assert tab.says("h1").split() == [name, *tab.says("h1 .sign").split()]
    assert tab.says("h1 .sign").split(" ", 1)[1] == host["state"]
    figures = " ".join(tab.says(".figures").split())
    held = sum(guest["memory"] or 0 for guest in guests)
    assert f"{words.size(held)} of {words.size(host['memory'])}" in figures, figures
    rows = {row[0]: (row[1].split(" ", 1)[1], row[3], row[4]) for row in tab.table()}
    assert rows == {
        guest["name"]: (guest["state"], str(guest["vcpus"]), words.size(guest["memory"])) for guest in guests
    }


def same_plan(tab: Tab, api: Api, asked: Told) -> Told:
    """The page of a plan has the moves that the API would make; returns its answer."""
    return tab.until(lambda: _same_plan(tab, api, asked))


def _same_plan(tab: Tab, api: Api, asked: Told) -> Told:
    told: Told = api.post("plans", asked)
    rows = [(row[1], row[2], row[3], row[4]) for row in tab.table()]
    moves = [(item["name"], item["source"], item["destination"], item["role"]) for item in told["items"]]
    if rows != moves:
        tab.driver.refresh()  # it is planned when it is loaded, and loads drift
    assert rows == moves
    facts = tab.says(".columns")
    assert f"moves {words.count(len(moves), 'guest')} sends {words.size(told['forecast']['bytes'])}" in facts, facts
    left = tab.ask("return [...document.querySelectorAll('details.left summary bdi')].map(name => name.innerText)")
    assert left == [guest["name"] for guest in told["left"]]
    return told


def same_operation(tab: Tab, api: Api, name: str, *, phase: str = "", over: bool = False, reload: bool = False) -> Told:
    """The page of an operation has its phase, how far it is, and every move; returns the API's answer.

    Args:
        tab: there.
        api: asked before and after the page is read: only what did not change meanwhile is compared.
        name: the operation's id.
        phase: that it has to be in.
        over: whether it has to be over, however it ended.
        reload: load the page before each look, where it does not follow by itself.
    """
    return tab.until(lambda: _same_operation(tab, api, name, phase=phase, over=over, reload=reload))


def _same_operation(tab: Tab, api: Api, name: str, *, phase: str, over: bool, reload: bool) -> Told:
    before: Told = api.get(f"operations/{name}")
    assert phase in {"", before["phase"]}
    assert before["ended"] or not over
    if reload:
        tab.driver.refresh()
    heads = [
        head.rstrip(" ▲▼")
        for head in tab.ask("return [...document.querySelectorAll('main thead th')].map(h => h.innerText)")
    ]
    told_rows = [dict(zip(heads, row, strict=True)) for row in tab.table()]
    rows = {(row["#"], row["Guest"], row["From"], row["To"]): row for row in told_rows}
    chip, far = tab.says("h1 .sign"), tab.says("main .progress")
    told: Told = api.get(f"operations/{name}")
    assert told["number"] == before["number"]
    assert chip.split(" ", 1)[1] == told["phase"]
    assert far == _far(told)
    assert len(rows) == len(told["items"])
    for place, item in enumerate(told["items"], 1):
        row = rows[str(place), item["name"], item["source"], item["destination"]]
        said = " ".join(row.get("State", "· waiting").split())  # of a plan nothing else could be said
        assert said.split(" ")[1] == item["state"], said
        assert item["move"] in said
        assert row.get("Attempts", words.NONE) in {str(item["attempts"]), words.NONE}
        assert row.get("Pause", words.NONE) == words.milliseconds(item["blackout_ms"])
        assert row.get("Sent", words.NONE) == (words.size(item["bytes"]) if item["bytes"] else words.NONE)
    return told


def _far(told: Told) -> str:
    states = Counter(item["state"] for item in told["items"])
    total = len(told["items"]) - states["rerouted"]
    said = [f"{states['done']} of {total} done"]
    said += [f"{states[key]} {word}" for key, word in (("moving", "moving"), ("failed", "failed")) if states[key]]
    return ", ".join(said)


def same_move(tab: Tab, api: Api, name: str) -> Told:
    """The page of a finished move has its hosts, how it ended, and what was measured; returns the API's answer."""
    told: Told = api.get(f"moves/{name}")
    status = told["status"]
    tab.until(lambda: _same_move(tab, status))
    return told


def _same_move(tab: Tab, status: Told) -> None:
    head = tab.says("h1")
    assert head.startswith(f"{status['guest']}: {status['source']} → {status['destination']}")
    assert head.endswith(status["state"])
    said = defaultdict(lambda: ["", ""], {row[0]: row[1:] for row in tab.table("main section table")})
    measured = status["measured"]
    pause = said["pause, from STOP at the source to RESUME at the destination"]
    assert pause[1] == words.milliseconds(measured["blackout_ms"])
    assert said["pause as QEMU counts it"][1] == words.milliseconds(measured["qemu_downtime_ms"])
    assert said["sent"][1] == words.size(measured["ram_bytes"] + measured["disk_bytes"])


def same_audit(tab: Tab, api: Api, subject: str) -> list[tuple[str, str, str]]:
    """The audit page, searched for an operation, has the API's lines of it; returns who did what, why, latest first."""
    return tab.until(lambda: _same_audit(tab, api, subject))


def _same_audit(tab: Tab, api: Api, subject: str) -> list[tuple[str, str, str]]:
    tab.go(f"/audit?q={subject}")
    rows = [(row[1], row[2].lower(), row[4]) for row in tab.table() if row[3].endswith(subject.rpartition("-")[2])]
    lines = [line for line in api.all("audit/changes") if line["subject"] == subject]
    assert rows == [(line["who"], line["what"].partition(" ")[0], line["why"]) for line in lines]
    return rows
