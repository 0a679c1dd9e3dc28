"""Telling systemd how the daemon is (sd_notify), without a library.

Source: systemd's sd_notify(3): one datagram of `KEY=VALUE` lines to `$NOTIFY_SOCKET`.
"""

import asyncio
import os
import socket


def notify(state: str) -> None:
    """Tell systemd, if it is there to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        told.send(state.encode())


async def feed_watchdog() -> None:
    """Say that this event loop turns, twice in each interval that systemd expects, if it expects any."""
    interval = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
    if not interval or os.environ.get("WATCHDOG_PID") not in {None, "", str(os.getpid())}:
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval / 2)
