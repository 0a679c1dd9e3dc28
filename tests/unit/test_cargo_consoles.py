"""Consoles: which names are kept, and which are replaced by what."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from limosa.cargo.consoles import Consoles
from limosa.cargo.kind import HostFacts, Offer, Streams, Survey
from limosa.guest.profile import Chardev, Display, MonitorAddress, Profile
from limosa.testing.profiles import bare_profile
from limosa.units import MoveId, Side
from limosa.wire.findings import Severity
from limosa.wire.moves import MoveRequest

MOVE = MoveId("m1")
STREAMS = Streams(address="127.0.0.1", nbd_port=1, migration_port=2, tls_creds=None)


def host(run: Path) -> HostFacts:
    return HostFacts(name="b", migration_address="127.0.0.1", state_dir=str(run), run_dir=str(run), machine_id="b")


def chardev(backend: str, **options: Any) -> Profile:
    return bare_profile(chardevs=(Chardev(id="c0", backend=backend, options=options),))


def offered(profile: Profile, run: Path, **maps: str) -> tuple[Profile, Offer]:
    request = MoveRequest(guest="guest", to="b", maps={k.replace("_", "."): v for k, v in maps.items()})
    kind = Consoles()
    offer = asyncio.run(kind.offer(profile, Survey(kind="consoles"), host(run), request, MOVE))
    return kind.rewrite(profile, offer), offer


def options_of(profile: Profile) -> dict[str, Any]:
    return dict(profile.chardevs[0].options)


def test_a_socket_keeps_its_path_where_nobody_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "console.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    twin, _ = offered(chardev("socket", path=path, server=True, wait=True), tmp_path / "run")
    # A twin that waits for a client would never answer its monitor.
    assert options_of(twin) == {"path": path, "server": True, "wait": False}


def test_a_socket_that_somebody_serves_is_left_to_him(tmp_path: Path) -> None:
    path = tmp_path / "console.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        twin, offer = offered(chardev("socket", path=str(path), server=True), tmp_path / "run")
    chosen = Path(options_of(twin)["path"])
    assert chosen == tmp_path / "run" / "guests" / "guest" / "console.sock"
    assert [finding.severity for finding in offer.findings] == [Severity.NOTE]


def test_directories_are_made_and_on_the_way_back_removed(tmp_path: Path) -> None:
    profile = chardev("socket", path=str(tmp_path / "deep" / "er" / "console.sock"), server=True)
    twin, offer = offered(profile, tmp_path / "run")
    (step,) = Consoles().steps(twin, offer, STREAMS)
    kind: Any = Consoles()
    path = Path(options_of(twin)["path"])
    asyncio.run(kind.make(step, None))
    asyncio.run(kind.make(step, None))
    assert path.parent.is_dir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    asyncio.run(kind.unmake(step, None))
    asyncio.run(kind.unmake(step, None))
    assert [*tmp_path.iterdir()] == []
    assert step.side is Side.DESTINATION


def test_logs_are_appended_to(tmp_path: Path) -> None:
    path = str(tmp_path / "serial.log")
    twin, _ = offered(chardev("file", path=path), tmp_path / "run")
    assert options_of(twin) == {"path": path, "append": True}


def test_a_terminal_becomes_nothing_and_that_is_said(tmp_path: Path) -> None:
    twin, offer = offered(chardev("stdio", signal=False, mux=True), tmp_path / "run")
    assert twin.chardevs[0].backend == "null"
    assert options_of(twin) == {"mux": True}
    assert "goes nowhere" in offer.findings[0].what


def test_a_port_in_use_is_replaced_by_the_next_free_one(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        twin, offer = offered(chardev("socket", host="127.0.0.1", port=str(port), server=True), tmp_path / "run")
    assert int(options_of(twin)["port"]) > port
    assert "is in use here" in offer.findings[0].what


def test_an_address_of_the_source_blocks_until_it_is_mapped(tmp_path: Path) -> None:
    profile = chardev("socket", host="192.0.2.1", port="0", server=True)
    _, offer = offered(profile, tmp_path / "run")
    assert offer.findings[0].severity is Severity.BLOCKS
    twin, offer = offered(profile, tmp_path / "run", **{"192_0_2_1": "127.0.0.1"})
    assert not [finding for finding in offer.findings if finding.severity is Severity.BLOCKS]
    assert options_of(twin)["host"] == "127.0.0.1"


def test_a_client_of_a_service_needs_the_service(tmp_path: Path) -> None:
    profile = chardev("socket", path=str(tmp_path / "service"), server=False)
    _, offer = offered(profile, tmp_path / "run")
    assert "nobody listens there" in offer.findings[0].what
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(tmp_path / "service"))
        _, offer = offered(profile, tmp_path / "run")
    assert offer.findings == ()


def test_the_owners_monitor_goes_along_with_its_chardev(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    monitor = MonitorAddress(mode="control", chardev="c0", path=str(path))
    profile = bare_profile(
        chardevs=(Chardev(id="c0", backend="socket", options={"path": str(path), "server": True}),),
        monitors=(monitor,),
    )
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        twin, _ = offered(profile, tmp_path / "run")
    assert twin.monitors[0].path == options_of(twin)["path"] != str(path)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("display", "gtk,gl=on"), ("display", "none")),
        (("display", "none"), ("display", "none")),
        (("vnc", "none"), ("vnc", "none")),
        (("spice", "disable-ticketing=on,unix=on,addr=/x"), ("spice", "disable-ticketing=on,unix=on,addr=/x")),
    ],
)
def test_screens(tmp_path: Path, option: tuple[str, str], expected: tuple[str, str]) -> None:
    twin, _ = offered(bare_profile(display=Display(options=(option,))), tmp_path / "run")
    assert twin.display.options == (expected,)


def test_a_vnc_display_in_use_is_replaced(tmp_path: Path) -> None:
    with socket.socket() as busy:
        for display in range(40, 200):
            try:
                busy.bind(("127.0.0.1", 5900 + display))
            except OSError:
                continue
            break
        busy.listen()
        profile = bare_profile(display=Display(options=(("vnc", f"127.0.0.1:{display},password=on"),)))
        twin, offer = offered(profile, tmp_path / "run")
    where, _, rest = twin.display.options[0][1].partition(",")
    assert int(where.rpartition(":")[2]) > display
    assert rest == "password=on"
    assert {finding.severity for finding in offer.findings} == {Severity.WARNING, Severity.NOTE}


def test_limosas_own_monitor_is_not_carried_on(tmp_path: Path) -> None:
    own = Chardev(id="limosa-mon", backend="socket", options={"path": "/nowhere/x", "server": True})
    twin, offer = offered(bare_profile(chardevs=(own,)), tmp_path / "run")
    assert twin.chardevs == (own,)
    assert offer.chosen["sockets"] == []
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # names only
