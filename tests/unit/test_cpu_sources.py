import json
import re
from functools import cache
from pathlib import Path

import pytest

from limosa.cli.cpu_files import read_host
from limosa.cpu.cpuinfo import read_cpuinfo
from limosa.cpu.dump import MAX_BYTES, read_dump
from limosa.cpu.expansion import read_expansion
from limosa.cpu.facts import HostCpu, Source, SourceError, visible, with_areas
from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import FLAGS, UnknownFlag
from limosa.cpu.store import CpuStore, StoreError
from limosa.errors import UsageError

ROOT = Path(__file__).parents[2]
DUMPS = ROOT.parent / "shared" / "data" / "cpuid"
PAGE = ROOT / "docs" / "cpu.md"
needs_dumps = pytest.mark.skipif(not DUMPS.is_dir(), reason="the collection of CPUID dumps is not beside this checkout")

WHOLE = """\
CPUID 00000000: 00000007-756E6547-6C65746E-49656E69
CPUID 00000001: 000506E3-00100800-7FFAFBBF-BFEBFBFF
CPUID 00000007: 00000000-029C6FBF-00000000-00000000 [SL 00]
CPUID 80000000: 80000008-00000000-00000000-00000000
CPUID 80000001: 00000000-00000000-00000121-2C100800
CPUID 80000008: 00003027-00000000-00000000-00000000
"""
CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Xeon
stepping\t: 7
microcode\t: 0x5003604
flags\t\t: fpu sse sse2 avx xsave vmx ibrs ibpb stibp ssbd nonstop_tsc somethingnew
vmx flags\t: vnmi ept vpid tsc_scaling
address sizes\t: 46 bits physical, 48 bits virtual

"""


def test_a_dump_gives_flags_and_facts() -> None:
    host = read_dump(WHOLE, "h")
    assert (host.vendor, host.family, host.model, host.stepping) == ("GenuineIntel", 6, 0x5E, 3)
    assert (host.phys_bits, host.virt_bits, host.source) == (39, 48, Source.CPUID)
    assert {"avx2", "bmi2", "sse4.2", "lm", "abm"} <= set(host.flags)
    assert "vmx-ept" in host.untold
    assert "avx512f" not in host.flags + host.untold


def test_bits_that_no_guest_is_given_are_kept_by_name_or_place() -> None:
    host = read_dump(WHOLE.replace("029C6FBF", "029C7FBF"), "h")
    assert {"cqm (7.0.ebx.12)", "osxsave (1.0.ecx.27)"} <= set(host.unknown)


def test_what_some_processors_of_a_dump_lack_the_host_lacks() -> None:
    assert "avx2" not in read_dump(WHOLE + WHOLE.replace("029C6FBF", "029C6F9F"), "h").flags


def test_subleaves_without_numbers_are_counted() -> None:
    old = WHOLE.replace(
        "CPUID 80000000", "CPUID 0000000D: 00000007-00000000-00000000-00000000\n" * 2 + "CPUID 80000000"
    )
    assert "xsaveopt" in read_dump(old.replace("00000000: 00000007", "00000000: 0000000D"), "h").flags


BAD_DUMPS = {
    "empty file": ("", r"^the dump is empty"),
    "blank lines": ("\n\n \n", r"^the dump is empty"),
    "line cut off": (WHOLE[:70], r"^line 2: 'CPUID 00000001.*' is not `CPUID LEAF"),
    "end cut off": (WHOLE.partition("CPUID 80000000")[0], r"^line 3: cut off: leaf 80000000"),
    "leaf cut out": (WHOLE.replace("CPUID 00000007", "CPUID 00000006"), r"^line 6: cut off: leaf 7 is announced"),
    "wrong digits": (WHOLE.replace("7FFAFBBF", "7FFAFBBG"), r"^line 2: "),
    "number too long": (WHOLE.replace("7FFAFBBF", "17FFAFBBF"), r"^line 2: "),
    "signed number": (WHOLE.replace("7FFAFBBF", "-FFAFBBF"), r"^line 2: "),
    "leaf twice": (
        WHOLE.replace(
            "CPUID 80000000",
            "CPUID 00000001: 0-0-0-0".replace("0-0-0-0", "-".join(["00000000"] * 4)) + "\nCPUID 80000000",
        ),
        r"^line 4: leaf 1 comes twice",
    ),
    "subleaf twice": (
        WHOLE.replace("CPUID 80000000", "CPUID 00000007: " + "-".join(["00000000"] * 4) + " [SL 00]\nCPUID 80000000"),
        r"^line 4: leaf 7 comes twice with subleaf 0",
    ),
    "begins in the middle": (WHOLE.partition("\n")[2], r"^line 1: a processor begins with leaf 0, not 1"),
    "no vendor": (WHOLE.replace("756E6547", "00000001"), r"names no vendor"),
    "other architecture": ("MIDR_EL1: 0x410fd034\n", r"^line 1: .*x86"),
    "endless line": ("CPUID " + "0" * 10**6, r"^line 1: 1000006 characters"),
    "hostile size": ("\n" * (MAX_BYTES + 1), r"^a dump of \d+ bytes is not believed"),
}


@pytest.mark.parametrize(("text", "why"), BAD_DUMPS.values(), ids=BAD_DUMPS)
def test_a_bad_dump_is_one_error_with_its_line(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read_dump(text, "h")


def test_cpuinfo_gives_what_linux_names() -> None:
    host = read_cpuinfo(CPUINFO + CPUINFO.replace(": 0\n", ": 1\n"), "h")
    assert {"avx", "invtsc", "spec-ctrl", "stibp", "ssbd", "vmx-vnmi", "vmx-ept", "xcr0-avx"} <= set(host.flags)
    assert (host.phys_bits, host.tsc_scaling, host.microcode) == (46, True, "0x5003604")
    assert host.unknown == ("somethingnew",)
    assert "rdctl-no" in host.untold
    assert "avx2" not in host.untold


def test_mitigations_have_the_names_of_the_vendor() -> None:
    amd = read_cpuinfo(CPUINFO.replace("GenuineIntel", "AuthenticAMD").replace("vmx ibrs", "ibrs"), "h")
    assert {"ibrs", "ibpb", "amd-stibp", "amd-ssbd"} <= set(amd.flags)
    assert "spec-ctrl" not in amd.flags


BAD_CPUINFO = {
    "empty file": ("", "^the file is empty"),
    "cut off": (CPUINFO.partition("flags")[0], "^line 1: no line `flags`"),
    "second processor cut off": (CPUINFO + CPUINFO.partition("vendor_id")[0], "^line 12: no line `vendor_id`"),
    "line twice": (CPUINFO.replace("microcode", "stepping"), "^line 7: stepping comes twice"),
    "not cpuinfo": ("hello\n", "^line 1: 'hello' is not"),
    "another file with colons": ("vendor_id: x\nflags: y\n", "^line 1: this is not /proc/cpuinfo"),
    "arm": (
        "processor: 0\nFeatures: fp asimd\nCPU implementer: 0x41\n",
        "^line 1: a processor of another architecture",
    ),
    "riscv": ("processor: 0\nhart: 0\nisa: rv64imafdc\n", "^line 1: a processor of another architecture"),
    "hostile size": ("a" * (17 * 2**20), "bytes of /proc/cpuinfo are not believed"),
}


@pytest.mark.parametrize(("text", "why"), BAD_CPUINFO.values(), ids=BAD_CPUINFO)
def test_a_bad_cpuinfo_is_one_error_with_its_line(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read_cpuinfo(text, "h")


def test_a_file_is_known_by_its_contents_and_named_after_itself(tmp_path: Path) -> None:
    for name, text, source in (("one.cpuid", WHOLE, Source.CPUID), ("two.txt", CPUINFO, Source.CPUINFO)):
        (tmp_path / name).write_text(text)
        host = read_host(tmp_path / name)
        assert (host.host, host.source) == (name.partition(".")[0], source)


def test_an_error_in_a_file_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "cut.cpuid").write_text(WHOLE[:70])
    with pytest.raises(UsageError, match=r"cut.cpuid, line 2: "):
        read_host(tmp_path / "cut.cpuid")
    (tmp_path / "binary").write_bytes(b"CPUID\n\xff\xfe")
    with pytest.raises(UsageError, match=r"binary, line 2: not text"):
        read_host(tmp_path / "binary")


def test_a_host_through_qemu_has_what_the_broadest_model_has() -> None:
    properties = {
        "avx": True,
        "xsave": True,
        "avx2": True,
        "bmi1": False,
        "pmu": True,
        "rdctl-no": False,
        "vendor": "x",
    }
    host = read_expansion("h", properties, accel="tcg", version=(10, 0, 2), remove=["avx2", "bmi1"])
    assert (host.removed, host.phys_bits) == (("avx2",), 40)
    assert set(host.flags) == {"avx", "xsave", "xcr0-x87", "xcr0-sse", "xcr0-avx", "rdctl-no"}
    assert "rdctl-no" not in read_expansion("h", properties, accel="kvm", version=(10, 0, 2)).flags
    with pytest.raises(UnknownFlag):
        read_expansion("h", properties, accel="tcg", version=(10, 0, 2), remove=["avx3"])


def test_areas_follow_from_flags_and_only_with_xsave() -> None:
    flags = CpuFlags.of("avx", "avx512f")
    assert with_areas(flags) == flags
    more = with_areas(flags | CpuFlags.of("xsave")) - flags
    assert str(more) == "xsave, xcr0-x87, xcr0-sse, xcr0-avx, xcr0-opmask, xcr0-zmm-hi256, xcr0-hi16-zmm"


def test_what_stands_behind_a_flag_that_is_off_is_not_visible() -> None:
    stale = CpuFlags.of("avx", "rdctl-no", "vmx-ept", "npt")
    assert visible(stale) == CpuFlags.of("avx")
    whole = stale | CpuFlags.of("arch-capabilities", "vmx", "svm")
    assert visible(whole) == whole


def test_the_store_keeps_a_host_as_it_was(tmp_path: Path) -> None:
    store, host = CpuStore(tmp_path / "cpu"), read_dump(WHOLE, "rack4-07")
    assert store.all() == ()
    store.save(host)
    assert (store.names(), store.load("rack4-07"), store.all()) == (("rack4-07",), host, (host,))
    store.remove("rack4-07")
    for deed in (store.load, store.remove):
        with pytest.raises(KeyError):
            deed("rack4-07")


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".hidden", "x" * 200, "a\nb"])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be a host's name"):
        CpuStore(tmp_path).load(name)


def test_a_damaged_file_of_the_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text('{"host": 7}')
    with pytest.raises(StoreError, match=r"h\.json is not a host"):
        CpuStore(tmp_path).load("h")


@needs_dumps
def test_every_real_dump_is_read() -> None:
    files = sorted(DUMPS.rglob("*.cpuid"))
    assert len(files) > 300
    for file in files:
        host = read_host(file)
        assert {"fpu", "lm"} & set(host.flags), file.name
        assert host.vendor


@cache
def listed_differences() -> dict[str, tuple[str, int]]:
    """Flag -> (who has it, on how many dumps), as docs/cpu.md lists and explains them."""
    section = PAGE.read_text().partition("## Where libcpuid says something else")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (limosa|libcpuid) \| (\d+) \| (.+) \|$", section, re.MULTILINE)
    assert all(len(reason) > 40 for *_, reason in rows)
    return {name: (who, int(count)) for name, who, count, _ in rows}


@needs_dumps
def test_flags_are_those_of_libcpuid_but_for_the_differences_that_the_page_explains() -> None:
    names = {theirs: f.name for f in FLAGS for theirs in f.libcpuid}
    found: dict[tuple[str, str], int] = {}
    for stem, told in json.loads((DUMPS / "decoded" / "flags.json").read_text()).items():
        theirs = {names[name] for name in told if name in names}
        ours = set(read_host(DUMPS / "decoded" / f"{stem}.cpuid").flags) & set(names.values())
        for name in ours ^ theirs:
            key = (name, "limosa" if name in ours else "libcpuid")
            found[key] = found.get(key, 0) + 1
    assert {name: (who, count) for (name, who), count in found.items()} == listed_differences()
    assert len(found) == len(listed_differences())


def test_the_struct_of_a_host_survives_its_wire() -> None:
    import msgspec

    host = read_dump(WHOLE, "h")
    assert msgspec.json.decode(msgspec.json.encode(host), type=HostCpu) == host
