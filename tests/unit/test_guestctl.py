import asyncio
import struct

import pytest

from limosa.lab.guestctl import GuestControl, GuestOptions, Heartbeat


def test_only_what_was_asked_for_is_on_the_command_line() -> None:
    assert "limosa." not in GuestOptions().append()
    words = GuestOptions(("10.66.0.11/24", "10.67.0.11/24"), pages=128, records="auto", heartbeat="10.66.0.1:7777")
    assert words.append().split()[-8:] == [
        "limosa.ip=10.66.0.11/24",
        "limosa.ip1=10.67.0.11/24",
        "limosa.pages=128",
        "limosa.pages-rate=16",
        "limosa.records=auto",
        "limosa.records-hz=20",
        "limosa.records-size=4096",
        "limosa.heartbeat=10.66.0.1:7777,1ms",
    ]
    assert GuestOptions(zero_freed=True).append() == f"{GuestOptions().append()} init_on_free=1"


def test_a_heartbeat_tells_how_far_each_disk_has_come() -> None:
    packet = struct.pack("<4sI8Q", b"LBT1", 1000, 7, 123, 456, 3, 0, 0, 250, 1) + struct.pack("<16sQQ", b"vda", 41, 2)
    beat = Heartbeat.parse(packet)
    assert (beat.sequence, beat.monotonic_ns, beat.passes, beat.late_us) == (7, 123, 3, 250)
    assert beat.disks == {"vda": (41, 2)}


@pytest.mark.parametrize("packet", [b"", b"LBT1", b"XXXX" + bytes(68), struct.pack("<4sI8Q", b"LBT1", *[0] * 8, 3)])
def test_other_packets_are_not_taken_for_heartbeats(packet: bytes) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        Heartbeat.parse(packet)


async def test_an_answer_that_an_earlier_client_no_longer_waited_for_is_not_taken_for_ones_own() -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tag, _, _ = (await reader.readline()).partition(b" ")
        writer.write(b'@stale {"flags":["old"]}\n[    3.1] kernel: {speaks}\n{"flags":["untagged"]}\n')
        writer.write(tag + b' {"flags":["lm"],"model":"x"}\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(agent, "127.0.0.1", 0)
    async with server, await GuestControl.over_tcp(*server.sockets[0].getsockname()) as guest:
        assert (await guest.cpu()).flags == ("lm",)
