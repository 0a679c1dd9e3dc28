"""Connections from inside a lab host to what listens on its network, held by a program outside."""

import os
import socket
import threading
from concurrent.futures import Future

from pyroute2 import netns

from limosa.lab.hosts import Role

CONNECT_LIMIT = 5.0


def dial(role: Role, address: str, port: int) -> socket.socket:
    """A TCP connection as a process on the role would open it; blocks until it is there.

    Raises:
        LabError: the role is switched off.
        OSError: nobody listens there, or nothing leads there.
    """
    opened: Future[socket.socket] = Future()
    space = os.open(f"/proc/{role.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def connect() -> None:
        # A thread of its own: it changes the network that it is on, and never comes back.
        try:
            netns.setns(space)
            opened.set_result(socket.create_connection((address, port), CONNECT_LIMIT))
        except OSError as error:
            opened.set_exception(error)

    try:
        worker = threading.Thread(target=connect, name=f"dial from {role.name}")
        worker.start()
        worker.join()
        return opened.result()
    finally:
        os.close(space)
