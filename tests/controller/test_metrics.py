"""What a controller tells Prometheus, and what it measures of its own work."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from limosa.agent import pki
from limosa.api.metrics import Measured
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.fleet.exposition import Exposition
from limosa.fleet.inventory import HostState, Inventory
from limosa.fleet.meters import Meters
from limosa.fleet.mobility import Mobility, survey
from limosa.testing.fleet import FLAGS, guest, report


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    """Three hosts; web1 can go to one other host, web2 to both, and db1 sees flags that only its host has."""
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", [], tmp_path / "pki", controller=True)
    (tmp_path / "controller.toml").write_text(f'state_dir = "{tmp_path}/state"\n[metrics]\nguests = 2\n')
    async with Controller.running(load(tmp_path)) as running:
        take, now = running.registry.take, time.time()
        await take("a", report("a", guest("web1", "a"), guest("web2", "a", flags=FLAGS[:1])), now)
        await take("b", report("b", guest("db1", "b", flags=(*FLAGS, "avx2")), flags=(*FLAGS, "avx2")), now)
        await take("c", report("c", flags=FLAGS[:2]), now)
        yield running


async def scraped(told: Exposition) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await told.text()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }


def of(seen: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float | None:
    return seen.get((name, frozenset(labels.items())))


async def test_the_fleet_is_counted_and_the_guests_with_the_fewest_hosts_are_named(controller: Controller) -> None:
    await controller.set_state("c", HostState.MAINTENANCE, "test", "")
    seen = await scraped(Exposition(controller))
    assert of(seen, "limosa_fleet_hosts", state="active") == 2
    assert of(seen, "limosa_fleet_hosts", state="maintenance") == 1
    assert of(seen, "limosa_fleet_hosts", state="drained") == 0
    assert of(seen, "limosa_fleet_guests", state="running") == 3
    assert of(seen, "limosa_fleet_guests_stuck", constraint="cpu") == 1
    assert of(seen, "limosa_fleet_guests_stuck", constraint="state") == 0
    assert [of(seen, "limosa_fleet_guests_by_compatible_hosts", hosts=h) for h in ("0", "1", "2-4")] == [1, 1, 1]
    named = {
        dict(labels)["guest"]: value
        for (name, labels), value in seen.items()
        if name == "limosa_guest_compatible_hosts"
    }
    assert named == {"db1": 0, "web1": 1}, "two of three, as controller.toml says"
    assert of(seen, "limosa_ownership_conflicts") == 0


async def test_a_guest_with_two_owners_is_counted(controller: Controller) -> None:
    await controller.registry.take("c", report("c", guest("web1", "c")), time.time())
    assert of(await scraped(Exposition(controller)), "limosa_ownership_conflicts") == 1


class Surveys:
    """Counts how often it was asked; fails where it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    def __call__(self, fleet: Inventory) -> Mobility:
        self.asked += 1
        if self.fails:
            raise ValueError("a defect")
        return survey(fleet)


async def test_where_guests_could_go_is_not_asked_at_each_scrape(controller: Controller) -> None:
    surveys = Surveys()
    told = Exposition(controller, surveys)
    both = await asyncio.gather(told.text(), told.text())
    await told.text()
    assert surveys.asked == 1
    assert all(b"limosa_fleet_guests_stuck" in text for text in both)


async def test_a_survey_that_fails_fails_its_scrape_and_the_next_one_asks_anew(controller: Controller) -> None:
    surveys = Surveys()
    told = Exposition(controller, surveys)
    surveys.fails = True
    with pytest.raises(ValueError, match="a defect"):
        await told.text()
    surveys.fails = False
    assert b"limosa_fleet_guests_stuck" in await told.text()
    assert surveys.asked == 2


async def test_statements_of_the_database_are_timed(controller: Controller) -> None:
    seen = await scraped(Exposition(controller))
    assert (of(seen, "limosa_controller_database_seconds_count") or 0) > 5
    assert of(seen, "limosa_controller_database_errors_total") == 0


async def test_requests_are_counted_by_known_methods_and_streams_while_they_last() -> None:
    meters, during = Meters(), []
    count = meters.registry.get_sample_value

    async def answers(scope: Any, _receive: Any, send: Any) -> None:
        kind = b"text/event-stream" if scope["path"] == "/v1/events" else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        during.append(count("limosa_controller_event_streams"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def nothing(*_message: Any) -> Any:
        return None

    app = Measured(answers, meters)
    for method, path in (("GET", "/v1/hosts"), ("GET", "/v1/events"), ("BREW", "/"), ("STEEP", "/")):
        await app({"type": "http", "method": method, "path": path}, nothing, nothing)  # type: ignore[arg-type]
    assert during == [0, 1, 0, 0]
    assert count("limosa_controller_event_streams") == 0
    assert count("limosa_controller_http_requests_total", {"method": "GET", "code": "200"}) == 2
    assert count("limosa_controller_http_requests_total", {"method": "other", "code": "200"}) == 2
    assert count("limosa_controller_http_answer_seconds_count") == 3, "a stream is no answer that takes long"
