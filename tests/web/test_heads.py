"""Tables are told to who hears them: each cell has the heads of its column and its row."""

import re
from html.parser import HTMLParser

import pytest

from limosa.fleet.chronicle import note
from limosa.testing.browser import Web
from limosa.web.render import assets
from limosa.wire.fleet import OperationAsked, OperationKind

PAGES = (
    "/hosts",
    "/hosts/a",
    "/guests",
    "/guests?size=10000",
    "/guests/web1",
    "/guests/web1?q=none",
    "/operations",
    "/operations/{operation}",
    "/plan?kind=drain&hosts=a",
    "/cpu?flag=avx",
    "/history",
    "/audit",
    "/doctor",
    "/hooks",
    "/search?q=web",
    "/tokens",
)


class Tables(HTMLParser):
    """Rows of a page's tables: for each cell its tag, its scope, and how many columns it takes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.heads: list[list[tuple[str, str, int]]] = []
        self.rows: list[tuple[int, list[tuple[str, str, int]]]] = []
        self._part = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag in {"thead", "tbody"}:
            self._part = tag
        elif tag == "tr" and self._part == "thead":
            self.heads.append([])
        elif tag == "tr":
            self.rows.append((len(self.heads) - 1, []))
        elif tag in {"th", "td"}:
            cells = self.heads[-1] if self._part == "thead" else self.rows[-1][1]
            cells.append((tag, told.get("scope") or "", int(told.get("colspan") or 1)))


@pytest.mark.parametrize("path", PAGES)
async def test_every_cell_has_the_heads_of_its_column_and_its_row(web: Web, path: str) -> None:
    asked = OperationAsked(kind=OperationKind.DRAIN, hosts=("a",), why="fans")
    operation = await web.controller.submit(asked, "operator", "", "")
    async with web.controller.database.write() as connection:
        await note(connection, "admin", "set state lost", "a")
    answer = await web.admin.get(path.format(operation=operation.id))
    assert answer.status_code == 200
    tables = Tables(answer.text)
    for head in tables.heads:
        assert {(tag, scope) for tag, scope, _ in head} == {("th", "col")}
    for table, row in tables.rows:
        width = len(tables.heads[table])
        if [span for _, _, span in row] == [width] and width > 1:
            assert row[0][0] == "td"  # a sentence in place of rows
            continue
        assert len(row) == width
        assert [scope for tag, scope, _ in row if tag == "th"] == ["row"]


def test_no_width_of_a_window_takes_a_tables_heads_away() -> None:
    style = assets()["limosa.css"].content.decode()
    assert not re.findall(r"thead[^{}]*\{[^}]*display: none", style)
