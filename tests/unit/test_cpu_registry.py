import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from limosa.cli.cpu import flags as flags_command
from limosa.cpu.flags import ALL, NONE, CpuFlags
from limosa.cpu.registry import BEYOND, FLAGS, WIDTH, Cpuid, Msr, UnknownFlag, by_place, flag, parse_place

RELEASED = ((403, "b0c3ab940a50374f09ab44d64cad4f081ca27707cdc1c3061365cb3a5b6339db"),)
"""Flags in each release, and what their positions, names and places hash to. Append; never change a line."""

PAGE = Path(__file__).parents[2] / "docs" / "cpu-flags.md"


@pytest.mark.parametrize(("count", "digest"), RELEASED)
def test_no_released_position_was_ever_moved_or_given_to_another_flag(count: int, digest: str) -> None:
    table = "\n".join(f"{f.position} {f.name} {f.place}" for f in FLAGS[:count])
    assert hashlib.sha256(table.encode()).hexdigest() == digest


def test_positions_count_from_zero_without_a_gap_and_names_and_places_are_unique() -> None:
    assert [f.position for f in FLAGS] == list(range(WIDTH))
    assert len({f.name for f in FLAGS}) == WIDTH
    places = [place for f in FLAGS for place in (f.place, *f.also)]
    assert len(set(places)) == len(places)
    assert not set(places) & set(BEYOND)


def test_every_flag_has_a_sentence() -> None:
    assert [f.name for f in FLAGS if not (f.sentence.endswith(".") and len(f.sentence) > 10)] == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("avx2", Cpuid(7, 0, "ebx", 5)),
        ("svm", Cpuid(0x80000001, 0, "ecx", 2)),
        ("npt", Cpuid(0x8000000A, 0, "edx", 0)),
        ("vmx-ept", Msr(0x48B, 1)),
        ("rdctl-no", Msr(0x10A, 0)),
        ("xcr0-opmask", Cpuid(0xD, 0, "eax", 5)),
        ("kvm-pv-eoi", Cpuid(0x40000001, 0, "eax", 6)),
    ],
)
def test_each_sort_of_feature_word_is_covered(name: str, place: Cpuid | Msr) -> None:
    assert flag(name).place == place
    assert by_place()[place].name == name
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("spelling", ["sse4.1", "sse4-1", "sse4_1", "SSE4_1"])
def test_a_flag_answers_to_every_spelling(spelling: str) -> None:
    assert flag(spelling).name == "sse4.1"


@pytest.mark.parametrize(("theirs", "ours"), [("pclmul", "pclmulqdq"), ("fma3", "fma"), ("dts", "ds"), ("xd", "nx")])
def test_a_flag_answers_to_the_names_of_linux_and_libcpuid(theirs: str, ours: str) -> None:
    assert flag(theirs).name == ours


@pytest.mark.parametrize("name", ["avx3", "", "7.0.ebx.5", "vmx:nothing"])
def test_a_name_that_nobody_has_is_an_error(name: str) -> None:
    with pytest.raises(UnknownFlag, match="no CPU flag"):
        flag(name)


@pytest.mark.parametrize("text", ["7.0.ebx", "7.0.efx.1", "msr.xyz.1", "7.0.ebx.-1"])
def test_what_is_no_place_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        parse_place(text)


def test_masks_are_sets() -> None:
    guest, host = CpuFlags.of("avx", "avx2"), CpuFlags.of("avx", "bmi1")
    assert (guest & host).names() == ("avx",)
    assert (guest - host).names() == ("avx2",)
    assert (guest | host).names() == ("avx", "bmi1", "avx2")
    assert guest ^ host == CpuFlags.of("avx2", "bmi1")
    assert all(type(each) is CpuFlags for each in (guest & host, guest - host, guest | 1, 1 & guest, ALL - guest))
    assert "avx2" in guest
    assert "avx2" not in host
    assert str(guest - guest) == ""
    assert not guest - guest


def test_a_mask_is_read_back_from_either_written_form() -> None:
    mask = CpuFlags.of("fpu", "avx2", FLAGS[-1].name)
    assert CpuFlags.from_bits(mask.bits()) == mask == CpuFlags.from_hex(mask.hex())
    assert len(mask.bits()) == WIDTH
    assert CpuFlags.of("de", "tsc", "vme", "pse").bits(8) == "00011110"


@pytest.mark.parametrize("text", ["", "2", "-1", "1 0", "1_0", "0b1", "1" * (WIDTH + 1), "1" * 10**6])
def test_what_is_no_bit_string_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="bit string"):
        CpuFlags.from_bits(text)


@pytest.mark.parametrize("text", ["", "g", "-f", "0x", "f" * (WIDTH // 4 + 2), "f" * 10**6])
def test_what_is_no_hexadecimal_mask_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"mask|beyond"):
        CpuFlags.from_hex(text)


def test_names_that_are_no_flags_are_kept_apart_and_not_dropped() -> None:
    assert CpuFlags.sort(["avx2", "future", "avx2", "another"]) == (CpuFlags.of("avx2"), ("another", "future"))
    assert CpuFlags.sort([]) == (NONE, ())


def test_the_page_of_flags_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(flags_command, ["--markdown"])
    assert PAGE.read_text() == printed.output, "run `limosa cpu flags --markdown > docs/cpu-flags.md`"
