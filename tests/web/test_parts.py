from limosa.web.difference import Difference, Placed
from limosa.web.parts import NOTHING, PARTS, Drawn, News, Parts, Recent, news, taken_apart


def region(*rows: tuple[str, str], title: str = "Hosts") -> str:
    told = "".join(f'<!--part:{name}--><tr id="{name}"><td>{load}</td></tr><!--end-->' for name, load in rows)
    return f"<h1>{title}</h1><table>{told}</table>"


def test_a_page_that_was_never_seen_is_sent_whole() -> None:
    assert news(NOTHING, taken_apart(region(("h-1", "3")))) == News(whole=region(("h-1", "3")))


def test_only_what_changed_in_a_row_is_sent() -> None:
    before, after = (taken_apart(region(("h-1", "3"), ("h-2", load))) for load in ("4", "5"))
    told = news(before, after)
    assert (told.event, told.data) == (PARTS, '{"slots":{"h-2":[[0,"","5"]]}}')
    assert before.digest != after.digest


def test_a_row_that_came_is_sent_and_the_others_stay() -> None:
    before = taken_apart(region(("h-1", "3"), ("h-3", "4")))
    after = taken_apart(region(("h-1", "3"), ("h-2", "<b>"), ("h-3", "4")))
    row = '<tr id="h-2"><td><b></td></tr>'
    assert news(before, after).parts == Difference(drawn={"h-2": row}, placed=(Placed("h-2", "h-1", ""),))


def test_another_title_or_other_rows_altogether_are_another_page() -> None:
    before = taken_apart(region(("h-1", "3"), ("h-2", "4")))
    for after in (region(("h-3", "4")), region(), region(("h-1", "3"), ("h-2", "4"), title="x")):
        assert news(before, taken_apart(after)) == News(whole=after)


def test_time_that_goes_by_is_no_news() -> None:
    before, after = (
        taken_apart(region(("h-1", f'<time datetime="2026-01-01T00:00:00+00:00" title="x">{said}</time>')))
        for said in ("3 min ago", "4 min ago")
    )
    assert news(before, after) == News(parts=Difference())
    assert before.digest == after.digest


def test_regions_that_were_sent_lately_are_remembered_up_to_their_size() -> None:
    some = [taken_apart(region((f"h-{number}", "3"))) for number in range(3)]
    recent = Recent(most=2 * len(some[0].whole))
    for each in (some[0], some[1], some[0], some[2]):
        recent.keep(each)
    assert [recent.find(each.digest) for each in some] == [some[0], NOTHING, some[2]]
    Recent(most=1).keep(some[0])


def test_a_page_is_drawn_once_for_all_who_look_at_it_while_it_shows_the_same() -> None:
    drawn, times = Drawn(most=2), []

    def look(page: str, load: str) -> str:
        def draw() -> Parts:
            times.append(page)
            return taken_apart(region(("h-1", load)))

        return drawn.region(page, ("a view", load), draw).whole

    assert [look("/", "3"), look("/", "3"), look("/", "4")] == [region(("h-1", load)) for load in "334"]
    assert times == ["/", "/"]
    for page in ("/a", "/b", "/"):
        look(page, "4")
    assert times == ["/", "/", "/a", "/b", "/"]
