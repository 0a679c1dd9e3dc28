"""Two controllers on one database: the second carries on what the first had in hand, and the first does no harm."""

import os
import random

import pytest

from limosa.lab.fleet import guests_on_three_hosts, lab_name
from limosa.lab.kills import Kills
from limosa.testing.postgres import Cluster

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]


async def test_a_drain_goes_on_when_its_controller_is_gone_and_comes_back_too_late(postgres: Cluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    url = postgres.create("takeover")
    async with guests_on_three_hosts(lab_name("t-takeover"), leaving=3, controllers=2, database=url) as fleet:
        kills = Kills(fleet, url, random.Random(1), print)
        await kills.drained([kills.freeze])
        await kills.restored([kills.replace])
        assert (kills.freezes, kills.kills, kills.takeovers) == (1, 1, 2)
