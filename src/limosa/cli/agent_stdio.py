"""`limosa agent-stdio`: what `limosa -H ssh://…` runs at the other end."""

from __future__ import annotations

import os
import selectors
import socket

import click

from limosa.cli.options import agent_options, example, where

PIECE = 65536


@click.command(name="agent-stdio", epilog=example("ssh root@host-b limosa agent-stdio"))
@agent_options
def agent_stdio() -> None:
    """Connect standard input and output to this host's agent; for use over ssh."""
    from limosa.cli.transport import Unix, default_socket

    stream = Unix(where(click.get_current_context()).socket or default_socket()).connect()
    stream.settimeout(None)
    with stream:
        relay(stream, 0, 1)


def relay(stream: socket.socket, source: int, sink: int) -> None:
    """Copy `source` into the stream and the stream into `sink` until the stream ends.

    Args:
        stream: a connected socket.
        source: descriptor to read; its end closes the stream for writing only, an answer may still come.
        sink: descriptor to write.
    """
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        _watch(ready, source)
        while True:
            for key, _ in ready.select():
                if key.fd == source:
                    piece = os.read(source, PIECE)
                    if piece:
                        stream.sendall(piece)
                    else:
                        ready.unregister(source)
                        stream.shutdown(socket.SHUT_WR)
                else:
                    piece = stream.recv(PIECE)
                    if not piece:
                        return
                    _write_all(sink, piece)


def _watch(ready: selectors.BaseSelector, source: int) -> None:
    try:
        ready.register(source, selectors.EVENT_READ)
    except PermissionError:
        # A regular file, as in `limosa agent-stdio < request`: epoll cannot wait for what is always ready.
        raise click.UsageError("standard input must be a pipe, a socket or a terminal") from None


def _write_all(sink: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(sink, piece) :]
