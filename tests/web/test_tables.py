from limosa.web.table import Column, Table, choices, table

ROWS = [(f"g{number:03}", number % 7 or None) for number in range(250)]
COLUMNS: tuple[Column[tuple[str, int | None]], ...] = (
    Column("name", "Name", lambda row: row[0]),
    Column("load", "Load", lambda row: row[1], number=True),
)


def shown(**query: str) -> Table[tuple[str, int | None]]:
    return table(ROWS, COLUMNS, lambda row: (row[0],), "/t", query)


def test_a_table_comes_in_pages_that_miss_nothing() -> None:
    pages = [shown()]
    while pages[-1].next:
        pages.append(shown(page=pages[-1].next.partition("page=")[2]))
    assert [(page.first, page.last) for page in pages] == [(1, 100), (101, 200), (201, 250)]
    assert [row for page in pages for row in page.rows] == ROWS
    assert pages[1].previous == "/t"


def test_numbers_come_largest_first_and_what_is_not_known_last_either_way() -> None:
    down, up = shown(sort="load", size="500"), shown(sort="-load", size="500")
    assert (down.rows[0][1], up.rows[0][1]) == (6, 1)
    assert down.rows[-1][1] is up.rows[-1][1] is None
    assert [head.sorted for head in down.heads] == ["none", "descending"]
    assert down.heads[1].href == "/t?sort=-load&size=500"


def test_a_search_takes_every_word_in_any_order_and_case() -> None:
    rows: list[tuple[str, int | None]] = [("Web One", 1), ("db one", 2)]
    found = table(rows, COLUMNS, lambda row: (row[0], "rack 7"), "/t", {"q": " ONE  web "})
    assert (found.rows, found.found, found.total) == ((("Web One", 1),), 1, 2)


def test_nonsense_in_an_address_is_left_out() -> None:
    for bad in ({"page": "-1"}, {"page": "x"}, {"page": "9" * 50}, {"size": "0"}, {"sort": "<b>"}, {"page": "²"}):
        page = shown(**bad)
        assert page.rows
        assert len(page.rows) <= 100


def test_an_empty_table_is_a_table() -> None:
    page = table([], COLUMNS, lambda row: (row[0],), "/t", {"page": "4"})
    assert (page.rows, page.first, page.last, page.next, page.previous) == ((), 0, 0, "", "")


def test_a_filter_keeps_the_rest_of_the_address_but_the_page() -> None:
    query = {"q": "a", "page": "4", "state": "lost"}
    found = choices("state", [("", "all"), ("lost", "lost 3")], "/t", query)
    assert [(choice.href, choice.chosen) for choice in found] == [("/t?q=a", False), ("/t?q=a&state=lost", True)]
