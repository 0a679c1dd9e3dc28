"""TCP ports for tests that run side by side."""

import random
import socket

PORTS = range(15000, 30000)
"""Below those that Linux gives to whoever asks for any port (ip_local_port_range): it gives none of them away."""


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which somebody can listen soon. Chosen at random, so that two tests hardly ever choose the same."""
    for port in random.sample(PORTS, 1000):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port on {address} between {PORTS.start} and {PORTS.stop - 1}")
