import pytest

from limosa.migration.predict import ASSUMED_RATE, SETUP_SECONDS, predict
from limosa.units import GIB, MIB
from limosa.wire.moves import Prediction


def of(
    *, memory: int = GIB, disks: int = 0, rate: float | None = 100 * MIB, dirty: float | None = 0, running: bool = True
) -> Prediction:
    return predict(memory=memory, disks=disks, rate=rate, dirty_rate=dirty, downtime_limit=300, running=running)


def test_an_idle_guest_takes_its_size_over_the_link() -> None:
    assert of().seconds == pytest.approx(SETUP_SECONDS + 10.24)


def test_a_guest_that_dirties_half_the_link_sends_its_memory_twice() -> None:
    assert of(dirty=50 * MIB).bytes == 2 * GIB


def test_a_guest_that_dirties_more_than_the_link_carries_does_not_converge_and_says_so() -> None:
    told = of(dirty=200 * MIB)
    assert not told.converges
    assert told.blackout_ms == pytest.approx(10240)
    assert "200.0 MiB/s" in told.why


def test_a_paused_guest_always_converges_and_notices_no_pause() -> None:
    told = of(dirty=200 * MIB, running=False)
    assert (told.converges, told.blackout_ms) == (True, 0)


def test_disks_are_counted_once() -> None:
    assert of(disks=3 * GIB).bytes == 4 * GIB


def test_what_is_assumed_is_called_assumed() -> None:
    told = of(rate=None, dirty=None)
    assert "assumed" in told.why
    assert "not measured" in told.why
    assert told.seconds == pytest.approx(SETUP_SECONDS + GIB / ASSUMED_RATE)
