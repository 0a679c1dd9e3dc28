from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from limosa.cpu.flags import CpuFlags
from limosa.cpu.fleet import Hard, Host, fold
from limosa.cpu.layers import arrange
from limosa.cpu.pools import order, pools
from limosa.cpu.svg import NEVER, NO, YES, Cell, matrix
from limosa.cpu.svg_pools import HIGH, WIDE, fitted, pools_picture

SVG = "{http://www.w3.org/2000/svg}"
LINES = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda line: line[0] < line[1]), max_size=15)


@settings(deadline=None)
@given(LINES)
def test_every_line_climbs_one_layer_after_the_other(lines: set[tuple[int, int]]) -> None:
    told = arrange(10, sorted(lines))
    level = {item: number for number, row in enumerate(told.layers) for item in row}
    assert sorted(item for row in told.layers for item in row if isinstance(item, int)) == list(range(10))
    assert [(way[0], way[-1]) for way in told.ways] == sorted(lines)
    for way in told.ways:
        assert [level[high] - level[low] for low, high in pairwise(way)] == [1] * (len(way) - 1)


def test_nothing_is_arranged_as_nothing() -> None:
    assert arrange(0, ()).layers == ()


def fleet(*flags: tuple[str, ...]) -> tuple[Host, ...]:
    return tuple(Host(f"h{number}", CpuFlags.of(*some), Hard("V<&>")) for number, some in enumerate(flags))


def test_boxes_of_pools_do_not_touch_and_lie_inside_the_picture() -> None:
    hosts = fleet(("fpu",), ("avx",), ("fpu", "avx"), ("fpu", "avx", "mmx"), ("sse",), ("sse",))
    found = pools(fold(hosts))
    root = ET.fromstring(pools_picture(found, order(found)))
    boxes = [box for box in root.iter(f"{SVG}rect") if box.get("class") == "box"]
    corners = [(float(box.get("x", 0)), float(box.get("y", 0))) for box in boxes]
    assert len(corners) == 5
    for (x, y), (other_x, other_y) in combinations(corners, 2):
        assert abs(x - other_x) >= WIDE or abs(y - other_y) >= HIGH
    assert all(x >= 0 and x + WIDE <= float(root.get("width", 0)) for x, _ in corners)
    assert all(y >= 0 and y + HIGH <= float(root.get("height", 0)) for _, y in corners)
    assert len([path for path in root.iter(f"{SVG}path") if path.get("class") == "up"]) == len(order(found))


def test_names_are_text_and_never_markup() -> None:
    found = pools(fold(fleet(("fpu",))))
    assert "V&lt;&amp;&gt;" in pools_picture(found, ())


def test_a_long_name_is_cut_so_that_its_box_holds_it() -> None:
    assert fitted("host", 1) == "host"
    assert fitted("h" * 60, 12).endswith("… +11")
    assert len(fitted("h" * 60, 12)) < 30


def test_small_cells_are_drawn_in_bands_and_large_ones_one_by_one() -> None:
    def cell(row: int, column: int) -> Cell:
        return Cell(YES if row <= column else NO if column % 7 else NEVER, "3", f"{row} to {column}")

    few = ET.fromstring(matrix(["a"] * 8, ["v"] * 8, cell, "few"))
    assert sum(1 for _ in few.iter(f"{SVG}title")) == 1 + 64
    many = matrix(["a"] * 300, ["v"] * 300, cell, "many")
    assert many.count("<rect") < 300 * 60
    assert "another vendor" in many
