"""Which of two troubles is the cause, and which the effect."""

from limosa.errors import GuestPoweredOff, LaunchError, LimosaError, MoveFailed, PeerError
from limosa.migration.watch import caused
from limosa.units import Side

EFFECT = MoveFailed("the copy of disk-data failed: Input/output error", guest_runs=Side.SOURCE)


def test_a_twin_that_died_is_named_before_the_copy_that_broke_off() -> None:
    died = LaunchError("the twin of web1 on b died", remedy="see QEMU's words", detail="qemu: out of memory")
    told = caused(EFFECT, [died])
    assert isinstance(told, MoveFailed)
    assert (told.what, told.guest_runs, told.remedy) == (died.what, Side.SOURCE, died.remedy)
    assert told.detail == f"qemu: out of memory\n{EFFECT.what}"


def test_a_trouble_that_names_the_dead_twin_itself_keeps_its_own_words() -> None:
    died = LaunchError("the twin of web1 on b died")
    trouble = MoveFailed("QEMU could not hand web1 over", detail="destination: the twin of web1 on b died")
    assert caused(trouble, [died]) is trouble


def test_a_guest_that_powered_itself_off_explains_everything() -> None:
    off: LimosaError = GuestPoweredOff("web1 powered itself off during the move")
    assert caused(EFFECT, [LaunchError("the twin of web1 on b died"), off]) is off


def test_without_an_alarm_or_with_a_lost_link_the_deed_speaks_for_itself() -> None:
    assert caused(EFFECT, []) is EFFECT
    assert caused(EFFECT, [PeerError("the link to b is lost")]) is EFFECT
