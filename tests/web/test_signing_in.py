"""Who may look, who may change something, and from where."""

import time

import sqlalchemy as sa

from limosa.fleet.db.tables import sessions
from limosa.fleet.sessions import form_word
from limosa.testing.browser import COOKIE, OWN, Web
from limosa.web.render import HEADERS
from limosa.wire.fleet import Role


async def test_who_is_not_signed_in_is_asked_and_then_gets_where_he_wanted(web: Web) -> None:
    asked = await web.nobody.get("/hosts?state=active")
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=/hosts%3Fstate%3Dactive")
    page = await web.nobody.get(asked.headers["location"])
    assert 'value="/hosts?state=active"' in page.text
    token = await web.controller.tokens.make("night", Role.VIEWER, "test")
    fields = {"token": token.word, "next": "/hosts?state=active"}
    begun = await web.nobody.client.post("/sign-in", data=fields, headers=OWN)
    assert begun.headers["location"] == "/hosts?state=active"
    assert (await web.nobody.get("/hosts")).status_code == 200


async def test_the_cookie_is_for_this_host_over_tls_and_for_no_script(web: Web) -> None:
    token = await web.controller.tokens.make("night", Role.VIEWER, "test")
    begun = await web.nobody.client.post("/sign-in", data={"token": token.word}, headers=OWN)
    name, *rules = begun.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-limosa=")
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(rules)
    assert not any(rule.startswith("Domain") for rule in rules)


async def test_a_session_is_kept_hashed(web: Web) -> None:
    async with web.controller.database.read() as connection:
        rows = (await connection.execute(sa.select(sessions))).mappings().all()
    assert len(rows) == 3
    assert web.viewer.session not in str(rows)


async def test_a_wrong_token_says_so_in_three_lines_and_opens_nothing(web: Web) -> None:
    answer = await web.nobody.client.post("/sign-in", data={"token": "limosa-wrong"}, headers=OWN)
    assert answer.status_code == 401
    for line in ("the controller does not know this token", "no guest was touched", "limosa controller token"):
        assert line in answer.text
    assert "set-cookie" not in answer.headers


async def test_who_tries_many_tokens_is_told_to_wait_and_a_right_one_still_opens(web: Web) -> None:
    for _ in range(25):
        answer = await web.nobody.client.post("/sign-in", data={"token": "limosa-wrong"}, headers=OWN)
    assert answer.status_code == 429
    token = await web.controller.tokens.make("night", Role.VIEWER, "test")
    assert (await web.nobody.client.post("/sign-in", data={"token": token.word}, headers=OWN)).status_code == 303


async def test_signing_out_ends_the_session_at_the_controller(web: Web) -> None:
    word = web.viewer.session
    assert (await web.viewer.send("/sign-out")).status_code == 303
    stale = await web.nobody.get("/hosts", Cookie=f"{COOKIE}={word}")
    assert stale.status_code == 303


async def test_a_removed_token_ends_its_sessions(web: Web) -> None:
    await web.controller.tokens.remove("test-viewer", "test")
    assert (await web.viewer.get("/hosts")).status_code == 303
    assert (await web.operator.get("/hosts")).status_code == 200


async def test_a_session_ends_with_its_time(web: Web) -> None:
    async with web.controller.database.write() as connection:
        await connection.execute(sa.update(sessions).values(until=time.time() - 1))
    assert (await web.admin.get("/")).status_code == 303


async def test_a_form_is_obeyed_only_from_this_site_and_with_this_sessions_word(web: Web) -> None:
    client, word = web.viewer.client, form_word(web.viewer.session)
    tries: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        "cross-site": ({"form": word}, {"Sec-Fetch-Site": "cross-site"}),
        "sibling": ({"form": word}, {"Sec-Fetch-Site": "same-site"}),
        "typed": ({"form": word}, {"Sec-Fetch-Site": "none"}),
        "origin": ({"form": word}, {"Origin": "https://elsewhere"}),
        "silent": ({"form": word}, {}),
        "wordless": ({}, OWN),
        "other session": ({"form": form_word(web.admin.session)}, OWN),
    }
    for name, (fields, headers) in tries.items():
        answer = await client.post("/sign-out", data=fields, headers=headers)
        assert answer.status_code == 403, name
    assert (await web.viewer.get("/")).status_code == 200
    obeyed = await client.post("/sign-out", data={"form": word}, headers={"Origin": "https://fleet-1"})
    assert obeyed.status_code == 303


async def test_nobody_is_sent_to_another_site_after_signing_in(web: Web) -> None:
    token = await web.controller.tokens.make("night", Role.VIEWER, "test")
    for bad in ("//elsewhere", "https://elsewhere", "/\\elsewhere", "/\t/elsewhere", "javascript:alert(1)", ""):
        begun = await web.nobody.client.post("/sign-in", data={"token": token.word, "next": bad}, headers=OWN)
        assert begun.headers["location"] == "/", bad


async def test_a_link_from_elsewhere_loads_itself_again_so_that_the_cookie_is_sent(web: Web) -> None:
    answer = await web.nobody.get("/hosts", **{"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, 'http-equiv="refresh"' in answer.text) == (200, True)


async def test_every_answer_keeps_its_page_to_this_site(web: Web) -> None:
    answers = [await web.viewer.get(path) for path in ("/", "/hosts")]
    answers += [await web.nobody.get(path) for path in ("/sign-in", "/", "/live/hosts")]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, answer.url


async def test_colours_are_kept_without_signing_in_and_without_scripts(web: Web) -> None:
    chosen = await web.nobody.client.post("/theme", data={"theme": "dark", "next": "/sign-in"}, headers=OWN)
    assert chosen.headers["location"] == "/sign-in"
    assert '<html lang="en" data-theme="dark">' in (await web.nobody.get("/sign-in")).text
    await web.nobody.client.post("/theme", data={"theme": "<b>"}, headers=OWN)
    assert 'data-theme="auto"' in (await web.nobody.get("/sign-in")).text
