import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from limosa.errors import MonitorBusy, MonitorLost, MonitorMissing, MonitorSilent, QmpError
from limosa.qmp.events import END_OF_STREAM, EventLog
from limosa.qmp.monitor import IN_FLIGHT, Monitor

from .conftest import Started, StartQemu

pytestmark = pytest.mark.qemu

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}, "capabilities": ["oob"]}}


async def test_the_greeting_tells_version_and_package(qemu: Started, qemu_binary: Path) -> None:
    monitor = await qemu.monitor()
    assert monitor.version[:2] == ((10, 0) if "10.0" in str(qemu_binary) else (7, 2))
    assert isinstance(monitor.package, str)
    assert monitor.oob
    assert await monitor.execute("query-status") == await monitor.execute("query-status", {})
    await monitor.close()


async def test_a_second_client_is_told_that_the_monitor_is_busy(qemu: Started) -> None:
    first = await qemu.monitor()
    path = str(qemu.directory / "qmp")
    for _ in range(5):  # the listener's own queue fills up, and is emptied when the first client has left
        with pytest.raises(MonitorBusy, match="another program holds") as busy:
            await Monitor.connect(path, pid=qemu.pid, greeting_timeout=0.2)
        assert "-qmp unix:" in busy.value.remedy
    await first.close()
    second = await Monitor.connect(path, pid=qemu.pid, greeting_timeout=10)
    assert await second.execute("query-name") == {}
    await second.close()


async def test_no_listener_is_no_monitor(short_dir: Path) -> None:
    with pytest.raises(MonitorMissing, match="No such file"):
        await Monitor.connect(str(short_dir / "nothing"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(short_dir / "deaf"))
        with pytest.raises(MonitorMissing, match="refused"):
            await Monitor.connect(str(short_dir / "deaf"))
    with pytest.raises(MonitorMissing):
        await Monitor.connect(("127.0.0.1", 1))
    with pytest.raises(MonitorMissing, match="no process"):
        await Monitor.connect(str(short_dir / "nothing"), pid=2**22 - 1)


async def test_a_socket_that_another_process_listens_on_is_refused(start_qemu: StartQemu, qemu_binary: Path) -> None:
    words = ("-qmp", "unix:qmp,server=on,wait=off")
    first = await asyncio.to_thread(start_qemu, qemu_binary, *words)
    (first.directory / "qmp").unlink()
    second = await asyncio.to_thread(start_qemu, qemu_binary, *words)
    with pytest.raises(MonitorMissing, match=f"of process {second.pid}, not of {first.pid}"):
        await first.monitor()
    monitor = await second.monitor()
    await monitor.close()


async def test_a_socket_name_longer_than_the_kernel_takes_is_reached(qemu_10: Started) -> None:
    deep = qemu_10.directory / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / "qmp").symlink_to(qemu_10.directory / "qmp")
    assert len(str(deep / "qmp")) > 108
    monitor = await Monitor.connect(str(deep / "qmp"), pid=qemu_10.pid, greeting_timeout=10)
    await monitor.close()


async def test_tcp_and_abstract_sockets(start_qemu: StartQemu, qemu_binary: Path) -> None:
    name = f"limosa-test-{os.getpid()}"
    started = await asyncio.to_thread(
        start_qemu,
        qemu_binary,
        *("-chardev", f"socket,id=a,path={name},abstract=on,server=on,wait=off", "-mon", "chardev=a,mode=control"),
        *("-qmp", "tcp:127.0.0.1:0,server=on,wait=off", "-qmp", "unix:qmp,server=on,wait=off"),
    )
    monitor = await started.monitor()
    told = {chardev["label"]: chardev["filename"] for chardev in await monitor.execute("query-chardev")}
    port = int(told["compat_monitor0"].split(",")[0].rpartition(":")[2])
    for address in (("127.0.0.1", port), f"@{name}"):
        other = await Monitor.connect(address, pid=started.pid, greeting_timeout=10)
        assert other.version == monitor.version
        await other.close()
    await monitor.close()


async def test_a_refusal_carries_class_text_and_command(qemu: Started) -> None:
    monitor = await qemu.monitor()
    with pytest.raises(QmpError) as unknown:
        await monitor.execute("no-such-command")
    assert (unknown.value.command, unknown.value.error_class) == ("no-such-command", "CommandNotFound")
    with pytest.raises(QmpError, match="QEMU refused qom-list") as refused:
        await monitor.execute("qom-list", {"path": "/nowhere"})
    assert refused.value.error_class == "DeviceNotFound"
    assert refused.value.text == "Device '/nowhere' not found"
    assert refused.value.__cause__ is not None
    await monitor.close()


async def test_many_commands_keep_their_order_and_their_refusals(qemu: Started) -> None:
    monitor = await qemu.monitor()
    paths = ["/machine", "/nowhere", "/objects"] * 20
    answers = await monitor.execute_many([("qom-list", {"path": path}) for path in paths])
    one_by_one = [await monitor.execute("qom-list", {"path": path}) for path in ("/machine", "/objects")]
    for number, answer in enumerate(answers):
        match number % 3:
            case 1:
                assert isinstance(answer, QmpError)
            case place:
                assert answer == one_by_one[place // 2]
    await monitor.close()


async def test_an_answer_of_a_quarter_of_a_megabyte_arrives(qemu: Started) -> None:
    monitor = await qemu.monitor()
    assert len(json.dumps(await monitor.execute("query-qmp-schema"))) > 150_000
    await monitor.close()


async def test_the_human_monitor_answers_in_text(qemu: Started) -> None:
    monitor = await qemu.monitor()
    assert "pcie.0" in await monitor.hmp("info qtree")
    assert "unknown command" in await monitor.hmp("no-such-line")
    await monitor.close()


async def test_yank_goes_out_of_band(qemu: Started) -> None:
    monitor = await qemu.monitor()
    await monitor.yank([])
    with pytest.raises(QmpError):
        await monitor.yank([{"type": "block-node", "node-name": "nothing"}])
    await monitor.close()


async def test_events_are_found_in_the_past_and_in_the_future(qemu: Started) -> None:
    monitor = await qemu.monitor()
    start = monitor.events.position
    await monitor.execute("cont")
    await monitor.execute("stop")
    assert (await monitor.events.wait("STOP", since=start, timeout=10)).qemu_time > 1.6e9
    assert (await monitor.events.wait("RESUME", since=start, timeout=10)).name == "RESUME"
    names = [event.name for event in monitor.events.since(start)]
    assert names == ["RESUME", "STOP"]

    position = monitor.events.position
    waiting = asyncio.create_task(monitor.events.wait(("RESUME", "SHUTDOWN"), since=position))
    await monitor.execute("cont")
    resumed = await waiting
    assert (resumed.name, resumed.number) == ("RESUME", position)
    assert (await monitor.events.wait(lambda event: event.number == position, since=0)) == resumed
    with pytest.raises(MonitorSilent, match="did not report MIGRATION within"):
        await monitor.events.wait("MIGRATION", since=position, timeout=0.05)
    await monitor.close()


async def test_a_quiet_end_is_the_last_event(qemu: Started) -> None:
    monitor = await qemu.monitor()
    start = monitor.events.position
    await monitor.execute("quit")
    await monitor.gone()
    assert [event.name for event in monitor.events.since(start)][-1] == END_OF_STREAM
    assert monitor.lost
    with pytest.raises(MonitorLost):
        await monitor.execute("query-status")
    with pytest.raises(MonitorLost):
        await monitor.events.wait("STOP", since=monitor.events.position)
    await monitor.close()


async def test_a_kill_ends_commands_and_waits_alike(qemu: Started) -> None:
    monitor = await qemu.monitor()
    loop = asyncio.get_running_loop()
    os.kill(qemu.pid, 19)  # SIGSTOP: the command stays unanswered
    pending = [asyncio.create_task(monitor.execute("query-status")) for _ in range(3 * IN_FLIGHT)]
    waiting = asyncio.create_task(monitor.events.wait("STOP", since=0))
    await asyncio.sleep(0)
    killed = loop.time()
    qemu.kill()
    ended = await asyncio.gather(*pending, waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [MonitorLost] * len(ended)
    assert loop.time() - killed < 1
    assert monitor.lost
    await monitor.close()
    await monitor.close()


async def test_a_death_is_seen_though_a_child_keeps_the_socket_open(qemu_10: Started) -> None:
    """The pidfd is enough: the stream of this monitor goes to a listener of ours that never hangs up."""
    async with _peer(qemu_10.directory / "proxy", _greet_and_hold) as path:
        monitor = await Monitor.connect(path, greeting_timeout=10)
        monitor._watch(os.pidfd_open(qemu_10.pid))
        qemu_10.kill()
        await asyncio.wait_for(monitor.gone(), 5)
        assert monitor.events.reason == "the process died"
        await monitor.close()


async def test_a_late_answer_harms_nobody_and_its_place_comes_back(qemu: Started) -> None:
    monitor = await qemu.monitor()
    os.kill(qemu.pid, 19)
    for _ in range(IN_FLIGHT + 2):
        with pytest.raises(MonitorSilent, match="query-name"):
            await monitor.execute("query-name", timeout=0.02)
    os.kill(qemu.pid, 18)
    for _ in range(3 * IN_FLIGHT):
        assert await monitor.execute("query-name", timeout=10) == {}
    await monitor.close()


async def test_arguments_that_are_not_json_cost_no_place(qemu_10: Started) -> None:
    monitor = await qemu_10.monitor()
    for _ in range(2 * IN_FLIGHT):
        with pytest.raises(TypeError):
            await monitor.execute("qom-list", {"path": object()})
    assert await monitor.execute("query-name", timeout=5) == {}
    await monitor.close()


async def test_a_transcript_has_every_message(qemu_10: Started) -> None:
    file = qemu_10.directory / "transcript"
    monitor = await Monitor.connect(str(qemu_10.directory / "qmp"), greeting_timeout=10, transcript=file)
    await monitor.execute("query-name")
    await monitor.close()
    arrows = [line.split()[1] for line in file.read_text().splitlines()]
    assert arrows == ["<-", "->", "<-", "->", "<-"]


# Peers that are no QEMU: garbage on the socket. QEMU itself never behaves so.

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _peer(path: Path, served: Served) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await served(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield str(path)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _command(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One command; qemu.qmp ends none with a newline, as QMP allows."""
    text = b""
    while True:
        read = await reader.read(65536)
        if not read:
            raise ConnectionError
        text += read
        with contextlib.suppress(ValueError):
            command: dict[str, Any] = json.loads(text)
            return command


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(json.dumps(GREETING).encode() + b"\n")
    asked = await _command(reader)
    writer.write(json.dumps({"return": {}, "id": asked.get("id")}).encode() + b"\n")


async def _greet_and_hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _greet(reader, writer)
    await reader.read()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"QMP": {"version": {}, "capabilities": []}}\n',
        b'{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": 7}}\n',
        b'{"QMP": ',
        b"",
    ],
)
async def test_what_does_not_greet_as_qmp_is_no_monitor(short_dir: Path, garbage: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        if garbage.startswith(b'{"QMP": {'):
            await _command(reader)
            writer.write(b'{"return": {}}\n')
        await writer.drain()

    async with _peer(short_dir / "peer", serve) as path:
        with pytest.raises(MonitorMissing, match="does not speak QMP"):
            await Monitor.connect(path, greeting_timeout=5)


@pytest.mark.parametrize("half", [b'{"return": {"na', b"garbage\n", b'{"error": {}}\n', b"[1]\n", b'{"id": []}\n'])
async def test_a_stream_cut_or_spoilt_in_mid_message_is_lost(short_dir: Path, half: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _greet(reader, writer)
        await _command(reader)
        writer.write(half)
        await writer.drain()

    async with _peer(short_dir / "peer", serve) as path:
        monitor = await Monitor.connect(path, greeting_timeout=5)
        with pytest.raises(MonitorLost, match="before QEMU answered query-name"):
            await monitor.execute("query-name")
        assert [event.name for event in monitor.events.since(0)] == [END_OF_STREAM]
        assert monitor.events.reason
        await monitor.close()


async def test_a_peer_that_sends_byte_by_byte_is_understood(short_dir: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _greet(reader, writer)
        asked = await _command(reader)
        event = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 500000}}
        for message in (event, {"return": {"name": "web1"}, "id": asked["id"]}):
            for byte in json.dumps(message).encode() + b"\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
        await reader.read()

    async with _peer(short_dir / "peer", serve) as path:
        monitor = await Monitor.connect(path, greeting_timeout=5)
        assert await monitor.execute("query-name") == {"name": "web1"}
        assert [(event.name, event.qemu_time) for event in monitor.events.since(0)] == [("STOP", 1.5)]
        await monitor.close()


async def test_close_does_not_wait_for_a_peer_that_reads_nothing(short_dir: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _greet(reader, writer)
        await asyncio.Event().wait()

    async with _peer(short_dir / "peer", serve) as path:
        monitor = await Monitor.connect(path, greeting_timeout=5)
        with pytest.raises(MonitorSilent):
            await monitor.execute("human-monitor-command", {"command-line": "x" * 4_000_000}, timeout=0.05)
        await asyncio.wait_for(monitor.close(), 5)
        assert monitor.lost


async def test_a_log_forgets_the_oldest_and_keeps_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limosa.qmp.events.KEPT", 3)
    log = EventLog()
    for number in range(10):
        log.add(f"E{number}", {}, at=0, qemu_time=0)
    assert log.position == 10
    assert [event.number for event in log.since(0)] == [6, 7, 8, 9]
    assert (await log.wait("E9", since=8)).number == 9


async def test_yank_gets_through_while_the_main_loop_hangs_under_a_full_queue(qemu: Started) -> None:
    """Opening a FIFO for writing blocks QEMU's main loop until somebody reads it."""
    fifo = qemu.directory / "fifo"
    os.mkfifo(fifo)
    monitor = await qemu.monitor()
    backend = {"type": "file", "data": {"out": str(fifo)}}
    hung = asyncio.create_task(monitor.execute("chardev-add", {"id": "stuck", "backend": backend}))
    waiting = [asyncio.create_task(monitor.execute("query-name")) for _ in range(4 * IN_FLIGHT)]
    await asyncio.sleep(0)
    with pytest.raises(MonitorSilent):
        await monitor.execute("query-name", timeout=0.2)
    await asyncio.wait_for(monitor.yank([]), 5)
    assert not hung.done()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert await hung == {}
    assert await asyncio.gather(*waiting) == [{}] * len(waiting)
    await monitor.close()
    os.close(reader)
