"""Settings: what wins, and what is said of what is wrong."""

from pathlib import Path

import pytest

from limosa.agent.config import Endpoint, find_qemu, load, parse_endpoint
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.errors import NotFound, UsageError
from limosa.units import HostName


def test_defaults_are_those_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMOSA_STATE_DIR", "LIMOSA_RUN_DIR", "LIMOSA_PKI_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = load(tmp_path, overrides={"host": "a"})
    assert (config.listen, config.migration_ports) == (Endpoint("0.0.0.0", 7447), range(49152, 49216))
    assert (str(config.state_dir), str(config.run_dir)) == ("/var/lib/limosa", "/run/limosa")
    assert (config.pki_dir, config.socket) == (tmp_path / "pki", Path("/run/limosa/agent.sock"))


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "agent.toml").write_text('host = "a"\nlisten = "10.0.0.1"\nstate_dir = "/one"\nsilence = 3\n')
    (tmp_path / "conf.d/20.toml").write_text('bandwidth = "100M"\n')
    (tmp_path / "conf.d/10.toml").write_text('bandwidth = "1M"\nlisten = "10.0.0.9:1"\n[bridges]\nbr0 = "br1"\n')
    monkeypatch.setenv("LIMOSA_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("LIMOSA_STATE_DIR", "/two")
    config = load(overrides={"host": "b", "listen": None})
    assert (str(config.host), config.listen) == ("b", Endpoint("10.0.0.9", 1))
    assert (float(config.bandwidth or 0), float(config.silence)) == (100 * 1024**2, 3.0)
    assert (str(config.state_dir), dict(config.bridges)) == ("/two", {"br0": "br1"})


def test_browsers_have_a_port_only_where_one_is_set(tmp_path: Path) -> None:
    assert load(tmp_path, overrides={"host": "a"}).web is None
    assert load(tmp_path, overrides={"host": "a", "web": "127.0.0.1"}).web == Endpoint("127.0.0.1", 8448)
    assert load(tmp_path, overrides={"host": "a", "web": "[::1]:1"}).web == Endpoint("::1", 1)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('host = "a"\nlissten = "x"\n', 2, "lissten: no such key; there are host, listen"),
        ('host = "a"\n\nlisten = 5\n', 3, "listen: Expected `str | null`, got `int`"),
        ('host = "Web 1"\n', 1, "host: 'Web 1' is not a host name"),
        ('host = "a"\n[cpu]\nremove = ["avx3"]\n', 2, "cpu: no CPU flag is called 'avx3'"),
        ('host = "a"\n[cpu]\naccel = "qemu"\n', 2, "cpu: 'qemu' is no accelerator that limosa knows: kvm, tcg"),
        ('host = "a"\nmigration_ports = "9-5"\n', 2, "migration_ports: '9-5'"),
        ('host = "a"\nmigration_ports = "many"\n', 2, "not a range of ports"),
        ('host = "a"\nlisten = "10.0.0.1:70000"\n', 2, "listen: '10.0.0.1:70000' is not an address"),
        ('bandwidth = "fast"\n', 1, "bandwidth: 'fast' is not a size"),
        ("silence = 0.1\n", 1, "silence: must be"),
        ('host = "a"\nweb = "0.0.0.0:8448"\n', 2, "web: '0.0.0.0:8448' is reached from elsewhere"),
        ('web = "host-a"\n', 1, "web: 'host-a' is reached from elsewhere"),
        ('storage = ["srv"]\n', 1, "storage: 'srv' must start with /"),
        ('[bridges]\nbr0 = "x"\nbr1 = 4\n', 1, "bridges: Expected `str`, got `int`"),
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, line: int, why: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load(tmp_path)
    assert error.value.what.startswith(f"{file}, line {line}: ")
    assert why in error.value.what


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('host = "a"\nlisten =\n')
    with pytest.raises(UsageError, match=r"agent.toml: Invalid value \(at line 2"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.2:1", Endpoint("10.0.0.2", 1)),
        ("host-b", Endpoint("host-b", 7447)),
        ("[fd00::2]", Endpoint("fd00::2", 7447)),
        ("[fd00::2]:9", Endpoint("fd00::2", 9)),
    ],
)
def test_endpoints_read_and_write(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


def test_hosts_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    hosts = Hosts(file)
    assert hosts.known() == {}
    file.write_text('[hosts.b]\naddress = "10.0.0.2:7447"\nmigration = "10.9.0.2"\n')
    assert hosts.find("b").migration_address == "10.9.0.2"
    write_missing(file, {HostName("c"): HostEntry(address="10.0.0.3"), HostName("b"): HostEntry(address="10.6.6.6")})
    assert {n: e.endpoint for n, e in hosts.known().items()} == {"b": ("10.0.0.2", 7447), "c": ("10.0.0.3", 7447)}


def test_what_an_operator_wrote_into_hosts_toml_stays(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text('# ours\n[hosts.b]   # rack 2\naddress = "10.0.0.2"')
    assert write_missing(file, {HostName("c.lab"): HostEntry(address="10.0.0.3", migration="10.9.0.3")}) == ("c.lab",)
    assert file.read_text().startswith('# ours\n[hosts.b]   # rack 2\naddress = "10.0.0.2"\n')
    assert set(Hosts(file).known()) == {"b", "c.lab"}


def test_an_unknown_host_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text('[hosts.b]\naddress = "10.0.0.2"\n[hosts.c]\naddress = "10.0.0.3"\n')
    with pytest.raises(NotFound, match=r"no host d .*known: b, c"):
        Hosts(file).find("d")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[hosts.b]\nmigration = 'x'\n", "line 1: b: Object missing required field `address`"),
        ("[hosts.b]\naddress = '10.0.0.2'\ncolour = 'red'\n", "line 3: colour: no such key"),
        ("[hosts.b]\naddress = 'a b'\n", "'a b' is not an address"),
        ("[hosts.Bad_Name]\naddress = 'a'\n", "line 1: Bad_Name: 'Bad_Name' is not a host name"),
        ("[host.b]\naddress = 'a'\n", "line 1: host: no such key"),
        ("hosts = 3\n", "line 1: hosts: Expected `object`"),
    ],
)
def test_a_wrong_hosts_file_is_told_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        Hosts(file).known()
    assert why in error.value.what


def test_qemu_is_found_on_the_path_first_hit_first(tmp_path: Path) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        for name in ("qemu-system-x86_64", f"qemu-system-{directory}"):
            (tmp_path / directory / name).touch(0o755)
    (tmp_path / "two/qemu-system-notes").touch(0o644)
    found = find_qemu(f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    assert [str(p.relative_to(tmp_path)) for p in found] == [
        "one/qemu-system-one",
        "one/qemu-system-x86_64",
        "two/qemu-system-two",
    ]
