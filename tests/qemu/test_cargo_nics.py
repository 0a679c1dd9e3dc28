"""NICs on bridges, in a network namespace of the test's own: two bridges are the two hosts."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest

from limosa.cargo import taps
from limosa.cargo.kind import When
from limosa.cargo.nics import ALIAS, BREAK_USER_NET, UNBRIDGED, Nics
from limosa.errors import LimosaError
from limosa.guest.profile import Device, Netdev, Profile
from limosa.lab import assets
from limosa.testing.contract import KindContract, Specimen
from limosa.testing.pair import Pair, pair
from limosa.testing.profiles import bare_profile
from limosa.wire.findings import Severity
from limosa.wire.moves import MoveRequest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="taps and bridges need root"),
]

CLONE_NEWNET = 0x40000000
MAC = "52:54:00:12:34:56"
MACHINE = ("-machine", "pc-q35-7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture(autouse=True)
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a new network namespace with two bridges."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        ip("link", "set", "lo", "up")
        for bridge in ("br0", "br1"):
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def add_tap(name: str, bridge: str | None = "br0", *more: str) -> None:
    ip("tuntap", "add", name, "mode", "tap", *more)
    if bridge:
        ip("link", "set", name, "master", bridge)
    ip("link", "set", name, "up")


def profile_of(*names: str, **options: object) -> Profile:
    settings = {"script": "no", "downscript": "no"} | options
    return bare_profile(
        netdevs=tuple(
            Netdev(id=f"net{n}", type="tap", options={"ifname": name} | settings, ifname=name, bridge="br0")
            for n, name in enumerate(names)
        ),
        devices=tuple(
            Device(
                path=f"/machine/peripheral/nic{n}",
                id=f"nic{n}",
                driver="virtio-net-pci",
                bus=None,
                properties={"mac": MAC[:-1] + str(n)},
                hotplugged=False,
                position=f"pcie.0/{n}",
                netdev=f"net{n}",
            )
            for n, _ in enumerate(names)
        ),
    )


def arguments(profile: Profile) -> list[str]:
    argv = list(MACHINE)
    for netdev in profile.netdevs:
        said = {k: ("on" if v is True else v) for k, v in netdev.options.items()}
        argv += ["-netdev", ",".join([netdev.type, f"id={netdev.id}", *(f"{k}={v}" for k, v in said.items())])]
    for device in profile.devices:
        more = ",mq=on,vectors=6" if profile.netdevs[0].options.get("queues") else ""
        mac = device.properties["mac"]
        argv += ["-device", f"{device.driver},netdev={device.netdev},mac={mac},id={device.id}{more}"]
    return argv


def a_move(
    tmp_path: Path, profile: Profile, maps: Mapping[str, str] = MappingProxyType({"br0": "br1"})
) -> AbstractAsyncContextManager[Pair]:
    return pair(tmp_path, profile, [Nics()], MoveRequest(guest="guest", to="destination", maps=dict(maps)))


def listen(bridge: str) -> socket.socket:
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035))  # RARP
    sniffer.bind((bridge, 0x8035))
    sniffer.settimeout(5)
    return sniffer


async def test_a_nic_arrives_on_the_mapped_bridge_wired_alike_and_announced(tmp_path: Path) -> None:
    add_tap("tap0")
    ip("link", "set", "tap0", "mtu", "1400")
    ip("link", "set", "tap0", "type", "bridge_slave", "hairpin", "on", "isolated", "on", "learning", "off")
    profile = profile_of("tap0")
    async with a_move(tmp_path, profile) as both:
        await both.source.start(assets.qemu_10(), arguments(profile))
        both.twin_arguments = arguments
        original = (await taps.links())["tap0"]
        with listen("br1") as sniffer:
            await both.move_all(assets.qemu_10())
            frame = sniffer.recv(64)
        assert frame[6:12] == bytes.fromhex(MAC.replace(":", "")[:-1] + "0")
        links = await taps.links()
        (name,) = (name for name, link in links.items() if (link.alias or "").startswith(ALIAS))
        assert links[name].master == "br1"
        assert links[name].up
        assert (links[name].mtu, links[name].port) == (1400, original.port)
        # The owner's tap is left to him, but out of the way.
        assert links["tap0"].master is None
        assert not links["tap0"].up
        await both.destination.kill()
        assert both.twin is not None
        assert both.twin.netdevs[0].options == {"ifname": name, "script": "no", "downscript": "no"}


async def test_queues_and_vhost_are_kept(tmp_path: Path) -> None:
    add_tap("tap0", "br0", "multi_queue")
    profile = profile_of("tap0", queues=2)
    async with a_move(tmp_path, profile) as both:
        await both.source.start(assets.qemu_10(), arguments(profile))
        both.twin_arguments = arguments
        await both.move_all(assets.qemu_10())
        assert both.twin is not None
        assert both.twin.netdevs[0].options["queues"] == 2
        assert (await taps.links())[both.twin.netdevs[0].options["ifname"]].multi_queue


async def test_a_missing_bridge_blocks_and_is_named(tmp_path: Path) -> None:
    add_tap("tap0")
    profile = profile_of("tap0")
    async with a_move(tmp_path, profile, maps={"br0": "br7"}) as both:
        await both.source.start(assets.qemu_10(), arguments(profile))
        (blocked,) = await both.agree()
        assert "br7: there is no bridge" in blocked.what
        assert blocked.remedy == "create it, or name the right one: --map br0=BRIDGE"


async def test_what_would_break_needs_a_word(tmp_path: Path) -> None:
    add_tap("tap0", None)
    profile = profile_of("tap0")
    user = Netdev(id="user0", type="user", options={})
    profile = msgspec.structs.replace(profile, netdevs=(*profile.netdevs, user))
    async with a_move(tmp_path, profile) as both:
        await both.source.start(assets.qemu_10(), arguments(profile_of("tap0")))
        assert {finding.consent for finding in await both.agree()} == {BREAK_USER_NET, UNBRIDGED}
        assert all(finding.severity is Severity.BLOCKS for finding in both.findings)


@pytest.mark.parametrize("until", [When.BEFORE_TWIN, When.COPY, When.PAUSED])
async def test_undone_twice_the_source_talks_and_the_destination_is_clean(tmp_path: Path, until: When) -> None:
    add_tap("tap0")
    profile = profile_of("tap0")
    async with a_move(tmp_path, profile) as both:
        await both.source.start(assets.qemu_10(), arguments(profile))
        both.twin_arguments = arguments
        before = await taps.links()
        assert not await both.agree()
        await make_until(both, until)
        await both.unmake_all()
        await both.unmake_all()
        assert (await taps.links()).keys() == before.keys()
        assert port_state("tap0") == "forwarding"


async def make_until(both: Pair, until: When) -> None:
    for when in (When.BEFORE_TWIN, When.COPY, When.PAUSED):
        if when is When.COPY:
            await both.start_twin(assets.qemu_10())
        await both.make(when)
        await both.make(when)
        if when is When.PAUSED:
            assert port_state("tap0") == "disabled"
        if when is until:
            return


async def test_another_interface_of_the_chosen_name_is_left_alone(tmp_path: Path) -> None:
    add_tap("tap0")
    profile = profile_of("tap0")
    async with a_move(tmp_path, profile, maps={"br0": "br1", "tap0": "tap9"}) as both:
        await both.source.start(assets.qemu_10(), arguments(profile))
        assert not await both.agree()
        add_tap("tap9", "br1")
        with pytest.raises(LimosaError, match="another interface tap9"):
            await both.make(When.BEFORE_TWIN)
        await both.unmake_all()
        assert (await taps.links())["tap9"].up


class TestNicsContract(KindContract):
    @pytest.fixture
    def specimen(self, tmp_path: Path) -> Specimen:
        add_tap("tap0")
        add_tap("tap1")

        async def untouched(both: Pair) -> None:
            assert {"tap0", "tap1"} == {name for name, link in (await taps.links()).items() if link.kind == "tun"}
            assert (port_state("tap0"), port_state("tap1")) == ("forwarding", "forwarding")

        async def arrived(both: Pair) -> None:
            links = await taps.links()
            made = [link for link in links.values() if (link.alias or "").startswith(ALIAS)]
            assert {link.master for link in made} == {"br1"}
            assert {port_state(link.name) for link in made} == {"forwarding"}
            assert len(made) == 2

        return Specimen(
            kind=Nics(),
            profile=profile_of("tap0", "tap1"),
            qemu=assets.qemu_10(),
            directory=tmp_path,
            request=MoveRequest(guest="guest", to="destination", maps={"br0": "br1"}),
            machine=(),
            twin_arguments=arguments,
            untouched=untouched,
            arrived=arrived,
        )


def port_state(name: str) -> str:
    said = subprocess.run(["bridge", "-d", "link", "show", "dev", name], check=True, capture_output=True, text=True)
    return said.stdout.partition(" state ")[2].split()[0]
