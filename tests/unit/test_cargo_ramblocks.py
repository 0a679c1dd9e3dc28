from limosa.cargo.ramblocks import RamBlock, findings, parse
from limosa.units import MIB
from limosa.wire.findings import Severity

PLUGGED = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000 0x00007f59bbe00000  rw
                    mem1    4 KiB  0x0000000020000000 0x0000000008000000 0x0000000008000000 0x00007f59b3c00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000028080000 0x0000000000020000 0x0000000000200000 0x00007f59b1600000  ro
"""
NEW, OLD = (10, 0, 2), (7, 2, 22)
BACKENDS = {"pc.ram": "base RAM", "mem1": "dimm1"}


def test_blocks_are_read_from_the_human_monitor() -> None:
    base, dimm, rom = parse(PLUGGED)
    assert (base, dimm) == (RamBlock("pc.ram", 0, 512 * MIB), RamBlock("mem1", 512 * MIB, 128 * MIB))
    assert rom.name == "/rom@etc/acpi/tables"


def test_a_plugged_dimm_is_worth_a_warning_under_tcg() -> None:
    (found,) = findings(parse(PLUGGED), BACKENDS, NEW)
    assert found.severity is Severity.WARNING
    assert "may miss writes to dimm1 while" in found.what


def test_base_ram_alone_is_copied_without_fault_since_9_0() -> None:
    assert list(findings(parse(PLUGGED), {"pc.ram": "base RAM"}, NEW)) == []
    (found,) = findings(parse(PLUGGED), {"pc.ram": "base RAM"}, OLD)
    assert "base RAM" in found.what


def test_a_dimm_in_front_of_base_ram_would_kill_the_guest_and_blocks() -> None:
    blocks = (RamBlock("pc.ram", 128 * MIB, 512 * MIB), RamBlock("mem1", 0, 128 * MIB))
    first, second = findings(blocks, BACKENDS, NEW)
    assert (first.severity, first.consent) == (Severity.BLOCKS, None)
    assert "mem1 lies in front of the larger pc.ram" in first.what
    assert second.severity is Severity.WARNING
    assert [found.severity for found in findings(blocks, BACKENDS, OLD)] == [Severity.WARNING]
