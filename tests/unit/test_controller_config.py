"""What `controller.toml` may say."""

from pathlib import Path

import pytest

from limosa.agent import pki
from limosa.errors import UsageError
from limosa.fleet.config import load
from limosa.units import MIB


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    return tmp_path


def test_racks_have_limits_of_their_own_in_bytes_or_in_words(place: Path) -> None:
    (place / "controller.toml").write_text(
        '[limits]\nmoves = 7\n[racks.r1]\nbandwidth = "500MiB/s"\n[racks.r2]\nbandwidth = 1e9\n'
    )
    limits = load(place).limits
    assert (limits.moves, limits.racks) == (7, {"r1": 500 * MIB, "r2": 1e9})
    assert limits.of_rack("r3") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[racks.r1]\nbandwidth = "fast"\n', "'fast' is not a size"),
        ('[racks.r1]\nbandwidth = "0"\n', "a rack without any bandwidth"),
        ("[racks.r1]\nbandwidth = 0.0\n", "racks"),
        ("[racks.r1]\nwidth = 1.0\n", "width"),
    ],
)
def test_a_rack_that_makes_no_sense_is_refused_with_its_file(place: Path, text: str, said: str) -> None:
    (place / "controller.toml").write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        load(place)
    assert "controller.toml" in str(refused.value)
