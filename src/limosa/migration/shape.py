"""The guest's shape in a few queries: cheap enough to be read while the guest is paused."""

from collections.abc import Mapping
from typing import Any

from limosa.errors import QmpError
from limosa.qmp.monitor import Monitor


async def shape_of(monitor: Monitor) -> Mapping[str, Any]:
    """Media, disk sizes, plugged devices and memory as they are now.

    Returns:
        Name of a thing -> what it is like; two readings of an unchanged guest are equal.

    Raises:
        MonitorError: QEMU did not answer.
    """
    answers = await monitor.execute_many(
        [
            ("query-block", None),
            ("qom-list", {"path": "/machine/peripheral"}),
            ("query-memory-size-summary", None),
        ]
    )
    for answer in answers:
        if isinstance(answer, QmpError):
            raise answer
    blocks: Any
    plugged: Any
    memory: Any
    blocks, plugged, memory = answers
    shape: dict[str, Any] = {"plugged memory": memory.get("plugged-memory", 0)}
    for device in plugged:
        shape[f"device {device['name']}"] = device["type"]
    for block in blocks:
        name = block.get("qdev") or block["device"]
        shape[f"medium of {name}"] = _medium(block.get("inserted")) + (", tray open" if block.get("tray_open") else "")
    return shape


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed first between two readings, in words; empty where nothing did. Pure."""
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            return f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'gone')}"
    return ""


def _medium(inserted: Mapping[str, Any] | None) -> str:
    return f"{inserted['file']} of {inserted['image']['virtual-size']} bytes" if inserted else "none"
