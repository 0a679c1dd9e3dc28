"""The shipped scrape configuration, rules and dashboard in a real Prometheus, on real agents and a real controller."""

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from limosa.agent import pki
from limosa.agent.hosts import HostEntry, write_missing
from limosa.fleet import picture
from limosa.fleet.db.engine import Database
from limosa.fleet.inventory import Limits
from limosa.fleet.operations.planning import plan
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry
from limosa.fleet.tokens import Tokens
from limosa.testing.fleet import guest, report
from limosa.testing.ports import free_port
from limosa.units import HostName
from limosa.wire.fleet import OperationAsked, OperationKind, Role

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "packaging/prometheus"
DASHBOARD = ROOT / "packaging/grafana/limosa.json"
DOCUMENTED = ROOT / "docs/metrics.md"

WITHIN = 100.0
"""Seconds for whatever another process does without telling."""
RARE = {"limosa_journal_oldest_open_timestamp_seconds"}
"""Is there while a move is open; see test_agent_metrics.py."""

_NAME = re.compile(r"\b(?:limosa|process)_[a-z_]+\b")
_ROW = re.compile(r"^\| `(?P<name>limosa_\w+)` \| (?P<type>\w+) \| *(?P<labels>[^|]*?) *\|", re.MULTILINE)


# -- what is shipped ------------------------------------------------------------------------------------------


def alerts() -> list[tuple[str, str]]:
    """(name, expression) of every rule, as promtool reads them."""
    found = re.findall(r"- alert: (\w+)\n +expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", (SHIPPED / "alerts.yml").read_text())
    return [(name, " ".join((folded or plain).split())) for name, folded, plain in found]


def queries() -> list[str]:
    """Every expression of the dashboard, with Grafana's own words filled in."""
    board = json.loads(DASHBOARD.read_text())
    told = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    told += [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    plain = [re.sub(r"label_values\((\w+), \w+\)", r"\1", expression) for expression in told]
    return [text.replace("$__rate_interval", "5m").replace("$instance", ".*") for text in plain]


def names(expression: str) -> set[str]:
    """The metrics that an expression reads, as docs/metrics.md calls them."""
    return set(_NAME.findall(expression))


def family(name: str) -> str:
    """The histogram that a series belongs to; the series' own name for everything else."""
    return re.sub(r"_(bucket|sum|count)$", "", name) if name not in documented() else name


def documented(section: str | None = None) -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> type and labels, as docs/metrics.md has them."""
    text = DOCUMENTED.read_text()
    if section is not None:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {row["name"]: (row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"]))) for row in _ROW.finditer(text)}


def exported(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The same, as a scrape has them."""
    found = {}
    for told in text_string_to_metric_families(text):
        if told.name.startswith("limosa_"):
            labels = frozenset(label for sample in told.samples for label in sample.labels if label != "le")
            name = f"{told.name}_total" if told.type == "counter" else told.name
            kind = "info" if name.endswith("_info") else told.type
            found[name] = (kind, labels)
    return found


def test_promtool_finds_the_rules_and_their_tests_good() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (scripts/setup installs it)")
    for how in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        ran = subprocess.run([promtool, *how], cwd=SHIPPED, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    tried = (SHIPPED / "alerts_test.yml").read_text()
    assert [name for name, _ in alerts() if f'"{name}"' not in tried] == [], "every rule is tried"


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    text = (SHIPPED / "alerts.yml").read_text()
    assert len(alerts()) == text.count("- alert:")
    for word in ("severity:", "summary:", "description:"):
        assert len(re.findall(rf"^ +{word}", text, re.MULTILINE)) == len(alerts()), word


def test_alerts_and_dashboard_read_documented_metrics_only() -> None:
    known = documented()
    for expression in (*queries(), *(expression for _, expression in alerts())):
        used = {family(name) for name in names(expression) if name.startswith("limosa_")}
        assert used <= known.keys(), expression


def test_the_dashboard_has_ids_places_and_a_data_source_of_its_own_choice() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["id"] is None, "Grafana gives it one"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells), "no panel covers another"
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


# -- a fleet, and a Prometheus that scrapes it ------------------------------------------------------------------


class Fleet(NamedTuple):
    """Processes of two agents and a controller; a third host is down in the middle of its drain."""

    directory: Path
    agents: dict[str, int]
    """Ports of their metrics."""
    controller: int
    token: str

    def certified(self) -> ssl.SSLContext:
        """What Prometheus shows and trusts."""
        own = self.directory / "prometheus"
        context = ssl.create_default_context(cafile=own / pki.CA_CERT)
        context.load_cert_chain(own / pki.HOST_CERT, own / pki.HOST_KEY)
        return context


async def eventually(true: Callable[[], Awaitable[bool]], otherwise: Callable[[], object]) -> None:
    """Wait for what another process does without telling."""
    deadline = time.monotonic() + WITHIN
    while not await true():
        assert time.monotonic() < deadline, otherwise()
        await asyncio.sleep(0.1)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lm-prom-") as name:  # a unix socket's path is short
        yield Path(name)


@pytest.fixture
def run() -> Iterator[Callable[..., Path]]:
    """Starts a program that ends with the test; returns its log."""
    with ExitStack() as stop:

        def start(log: Path, *command: str | Path) -> Path:
            file = stop.enter_context(log.open("wb"))
            process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file)
            stop.callback(process.wait)
            stop.callback(process.kill)
            return log

        yield start


Run = Callable[..., Path]


@asynccontextmanager
async def fleet(directory: Path, run: Run) -> AsyncIterator[Fleet]:
    ports = {name: (free_port(), free_port()) for name in ("a", "b")}
    listed = {HostName(name): HostEntry(address=f"127.0.0.1:{peer}") for name, (peer, _) in ports.items()}
    listed[HostName("c")] = HostEntry(address=f"127.0.0.1:{free_port()}")
    pki.create_ca(directory / "ca", "ca")
    for name, (peer, metrics) in ports.items():
        write_agent(directory / name, name, peer, metrics)
        pki.issue_host(directory / "ca", name, ["127.0.0.1"], directory / name / "pki")
        write_missing(directory / name / "hosts.toml", listed)
    pki.issue_host(directory / "ca", "prometheus", [], directory / "prometheus")
    place, port = directory / "controller", free_port()
    pki.issue_host(directory / "ca", "fleet-1", ["127.0.0.1"], place / "pki", controller=True)
    write_missing(place / "hosts.toml", listed)
    database = f"sqlite:///{place}/controller.db"
    (place / "controller.toml").write_text(
        f'listen = "127.0.0.1:{port}"\ndatabase = "{database}"\nstate_dir = "{place}/state"\n'
    )
    token = await seeded(database)
    limosa = (sys.executable, "-m", "limosa")
    for name in ports:
        run(directory / f"{name}.log", *limosa, "agent", "--config-dir", directory / name)
    run(directory / "controller.log", *limosa, "controller", "--config-dir", place)
    yield Fleet(directory, {name: metrics for name, (_, metrics) in ports.items()}, port, token)


def write_agent(place: Path, name: str, peer: int, metrics: int) -> None:
    place.mkdir()
    (place / "agent.toml").write_text(
        f'host = "{name}"\nlisten = "127.0.0.1:{peer}"\nmetrics = "0.0.0.0:{metrics}"\nqemu = []\n'
        f'state_dir = "{place}/state"\nrun_dir = "{place}/run"\npki_dir = "{place}/pki"\n'
        f'[[hooks]]\nfile = "{place}/moves.jsonl"\n'
    )


async def seeded(database: str) -> str:
    """A fleet's history in an empty database: host c was being drained when it fell silent. A viewer's token."""
    now = time.time()
    async with Database.opened(database) as opened:
        registry, store = Registry(opened), OperationStore(opened, "fleet-1")
        await registry.take("a", report("a"), now)
        await registry.take("c", report("c", guest("web1", "c"), guest("web2", "c")), now)
        known = picture.inventory(await registry.census(), Limits(), now, picture.Drawn())
        asked = OperationAsked(kind=OperationKind.DRAIN, hosts=("c",))
        await store.add(plan(asked, known, name="drain-1", who="test", now=now))
        await store.approve("drain-1", "test")
        return (await Tokens(opened).make("prometheus", Role.VIEWER, "test")).word


def configured(fleet: Fleet) -> Path:
    """The shipped configuration, with this fleet's places."""
    text = (SHIPPED / "prometheus.yml").read_text()
    agents = ", ".join(f'"127.0.0.1:{port}"' for port in fleet.agents.values())
    for ours, theirs in (
        ("15s", "1s"),
        ("/etc/prometheus/limosa/alerts.yml", str(SHIPPED / "alerts.yml")),
        ("/etc/prometheus/limosa", str(fleet.directory / "prometheus")),
        ('"host-a:9177", "host-b:9177"', agents),
        ("fleet-1:8447", f"127.0.0.1:{fleet.controller}"),
    ):
        assert ours in text, ours
        text = text.replace(ours, theirs)
    (fleet.directory / "prometheus/token").write_text(fleet.token)
    file = fleet.directory / "prometheus.yml"
    file.write_text(text)
    return file


class Asked(NamedTuple):
    """A Prometheus."""

    client: httpx.AsyncClient
    log: Path

    async def get(self, path: str, **words: str) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params=words)
        assert answer.json()["status"] == "success", (words, answer.text)
        return answer.json()["data"]

    async def answers(self) -> bool:
        try:
            return (await self.client.get("/-/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def all_targets_are_up(self) -> bool:
        targets = (await self.get("targets", state="active"))["activeTargets"]
        return len(targets) == 3 and all(target["health"] == "up" for target in targets)

    async def all_rules_are_evaluated(self) -> bool:
        groups = (await self.get("rules"))["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"])


@asynccontextmanager
async def prometheus(fleet: Fleet, run: Run) -> AsyncIterator[Asked]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (scripts/setup installs it)")
    port, data = free_port(), fleet.directory / "data"
    log = run(
        fleet.directory / "prometheus.log",
        program,
        f"--config.file={configured(fleet)}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        asked = Asked(client, log)
        await eventually(asked.answers, log.read_text)
        yield asked


def logs(directory: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(directory.glob("*.log")))


async def test_prometheus_scrapes_the_fleet_and_knows_all_that_alerts_and_dashboard_ask(
    directory: Path, run: Run
) -> None:
    async with fleet(directory, run) as living, prometheus(living, run) as asked:
        await eventually(asked.all_targets_are_up, lambda: logs(directory))
        await eventually(asked.all_rules_are_evaluated, lambda: logs(directory))
        loaded = {rule["name"] for group in (await asked.get("rules"))["groups"] for rule in group["rules"]}
        assert loaded == {name for name, _ in alerts()}
        expressions = [*queries(), *(expression for _, expression in alerts())]
        wanted = {name for expression in expressions for name in names(expression)}

        missing = wanted

        async def nothing_is_missing() -> bool:
            nonlocal missing
            missing = wanted - RARE - set(await asked.get("label/__name__/values"))
            return not missing

        await eventually(nothing_is_missing, lambda: (missing, logs(directory)))
        for expression in expressions:
            await asked.get("query", query=expression)
        moving = await asked.get("query", query='sum(limosa_operation_moves{operation="drain-1"})')
        assert moving["result"][0]["value"][1] == "2"


async def test_what_is_exported_is_what_is_documented_and_nobody_else_is_told(directory: Path, run: Run) -> None:
    async with fleet(directory, run) as living:
        stranger = ssl.create_default_context(cafile=directory / "prometheus" / pki.CA_CERT)
        agent, controller = f"https://127.0.0.1:{living.agents['a']}/metrics", f"https://127.0.0.1:{living.controller}"
        bearer = {"Authorization": f"Bearer {living.token}"}
        async with httpx.AsyncClient(verify=living.certified()) as client:

            async def answers() -> bool:
                try:
                    await client.get(agent)
                    told = exported((await client.get(f"{controller}/metrics", headers=bearer)).text)
                except httpx.TransportError:
                    return False
                return "limosa_operation_predicted_end_timestamp_seconds" in told

            await eventually(answers, lambda: logs(directory))
            of_agent, both = exported((await client.get(agent)).text), documented("Both")
            seen = await client.get(f"{controller}/metrics", headers=bearer)
            assert seen.headers["content-type"].startswith("text/plain; version=")
            held(of_agent, documented("Agents") | both)
            held(exported(seen.text), documented("Controllers") | both)
            assert (await client.get(f"{controller}/metrics")).status_code == 401
        async with httpx.AsyncClient(verify=stranger) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(agent)


def held(told: dict[str, tuple[str, frozenset[str]]], words: dict[str, tuple[str, frozenset[str]]]) -> None:
    """What a scrape tells is what is written; labels of what has no series yet cannot be compared."""
    assert told.keys() <= words.keys()
    assert words.keys() - told.keys() <= RARE
    kinds = {name: "gauge" if kind == "info" else kind for name, (kind, _) in words.items()}
    assert {name: "gauge" if kind == "info" else kind for name, (kind, _) in told.items()} == {
        name: kinds[name] for name in told
    }
    assert {n: labels for n, (_, labels) in told.items() if labels} == {n: words[n][1] for n in told if told[n][1]}
