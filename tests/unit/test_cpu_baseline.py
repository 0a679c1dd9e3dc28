import pytest

from limosa.cpu.baseline import BY_CPUID, SETTABLE, common, nearest, value
from limosa.cpu.flags import ALL, NONE, CpuFlags
from limosa.cpu.hardware import EMULATED, WITHHELD, guest_share
from limosa.cpu.models import LEFT_TO_QEMU, SAID, CpuModel, models, shut

BY_NAME = {model.name: model for model in models()}


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_a_models_own_flags_are_nearest_to_a_model_without_any_change(model: CpuModel) -> None:
    assert nearest(model.flags, vendor=model.vendor)[0].changes == 0


def test_every_model_is_a_version_of_its_own_and_no_bare_name_means_two() -> None:
    assert all(name.rpartition("-v")[2].isdigit() for name in BY_NAME)
    bare = [name for model in models() for name in model.also]
    assert len(bare) == len(set(bare))
    assert not set(bare) & set(BY_NAME)


def test_a_value_is_a_model_and_what_differs_then_what_accelerators_would_switch() -> None:
    haswell = BY_NAME["Haswell-v4"]
    wanted = (haswell.flags | CpuFlags.of("adx", "vme")) - CpuFlags.of("avx2", "x2apic")
    told = nearest(wanted, vendor="GenuineIntel")[0]
    assert str(told) == "Haswell-v4,vme=on,adx=on,acpi=off,monitor=off,x2apic=off,avx2=off,svm=off"
    assert told.changes == 2
    assert told.sees == wanted & SETTABLE


def test_flags_behind_a_closed_gate_are_neither_seen_nor_said() -> None:
    milan = BY_NAME["EPYC-Milan-v1"]
    assert {"svm", "npt"} <= set(milan.flags.names())
    told = value(milan, milan.flags - CpuFlags.of("svm"))
    assert "svm=off" in str(told)
    assert "npt" not in str(told)
    assert "npt" not in told.sees
    assert "npt" in shut(NONE)
    assert shut(ALL) == NONE


def test_vmx_brings_what_the_model_has_behind_it() -> None:
    skylake = BY_NAME["Skylake-Server-v4"]
    told = value(skylake, skylake.flags | CpuFlags.of("vmx"), known=BY_CPUID)
    assert "vmx-ept" not in str(told)
    assert "vmx-ept" in told.sees
    exact = value(skylake, skylake.flags | CpuFlags.of("vmx"))
    assert "vmx-ept=off" in str(exact)
    assert "vmx-ept" not in exact.sees


def test_what_no_source_can_tell_stays_as_the_model_has_it() -> None:
    icelake = BY_NAME["Icelake-Server-v4"]
    assert "rdctl-no" in icelake.flags
    assert "rdctl-no=off" in str(value(icelake, icelake.flags - CpuFlags.of("rdctl-no")))
    told = value(icelake, icelake.flags - CpuFlags.of("rdctl-no"), known=BY_CPUID)
    assert "rdctl-no" not in str(told)
    assert "rdctl-no" in told.sees


def test_a_vendor_that_qemu_has_no_model_of_gets_the_nearest_of_all() -> None:
    assert {one.model.vendor for one in nearest(NONE, vendor="AuthenticAMD")} == {"AuthenticAMD"}
    assert len(nearest(NONE, vendor="VIA VIA VIA ")) == len(models())


def test_the_hypervisor_and_its_own_interface_are_left_to_qemu() -> None:
    assert {"hypervisor", "kvmclock", "xcr0-avx"} <= set(LEFT_TO_QEMU.names())
    assert not LEFT_TO_QEMU & (SETTABLE | SAID)


def test_nothing_has_nothing_in_common() -> None:
    with pytest.raises(ValueError, match="no hosts"):
        common([])


def test_a_guest_gets_what_kvm_makes_up_and_not_what_belongs_to_the_machine() -> None:
    share = guest_share(CpuFlags.of("avx2", "lm", "est", "ds", "invtsc", "ht"))
    assert share == EMULATED | CpuFlags.of("avx2", "lm", "syscall")
    assert guest_share(NONE) == EMULATED
    assert not guest_share(ALL) & WITHHELD
