"""A bare machine that does not start: why."""

from pathlib import Path

import pytest

from limosa.errors import LaunchError
from limosa.guest.probe import Board, Probe


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("echo no such accelerator >&2; exit 1", "no such accelerator"),
        ("exit 3", "it ended with status 3"),
        ("kill -9 $$", "it ended with signal 9"),
    ],
)
async def test_a_program_that_ends_at_once_says_why_or_how(tmp_path: Path, deed: str, why: str) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n{deed}\n")
    program.chmod(0o755)
    with pytest.raises(LaunchError) as failed:
        async with Probe(program).running(Board(machine="none", cpu="", accel="tcg")):
            pytest.fail("it runs")
    assert failed.value.detail == why
