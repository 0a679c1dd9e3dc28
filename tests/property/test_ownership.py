"""Never two, never none: for any guest and any few faults, at any points of a move."""

import shutil
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import given, settings
from hypothesis import strategies as st

from limosa.testing.model.verdict import FAULTS, complaints
from limosa.testing.model.world import Setting, play

GUESTS = st.builds(Setting, disks=st.integers(0, 3), nics=st.integers(0, 2), running=st.booleans())
TROUBLE = st.lists(st.tuples(st.integers(1, 340), st.sampled_from(list(FAULTS))), max_size=4)


@settings(max_examples=200, deadline=None)
@given(guest=GUESTS, trouble=TROUBLE)
def test_one_guest_is_left_with_all_its_data_and_nothing_else(guest: Setting, trouble: list[tuple[int, str]]) -> None:
    place = Path(mkdtemp(prefix="limosa-model-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    schedule = {number: [FAULTS[name] for at, name in trouble if at == number] for number, _ in trouble}
    try:
        assert complaints(play(guest, schedule, place)) == ()
    finally:
        shutil.rmtree(place, ignore_errors=True)
