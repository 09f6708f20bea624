"""A running study: joining, answering, resuming, hostile requests; here in process, under load in its own."""

import asyncio
import io
import json
import re
from html.parser import HTMLParser

import httpx
import numpy as np
import pandas as pd
import pytest
import tiny_study
from PIL import Image

from lib.errors import AnsweredError, StoreError, TooFastError, UnknownTrialError
from lib.user_study import answers, session, store
from lib.user_study.server import COOKIE, Server

KEY = "the-key"
SCRIPT = "<script>alert(1)</script>"


class Clock:
    """Time that stands still until it is moved, also backwards."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Browser:
    """A client with cookies, of an application that runs in this process."""

    def __init__(self, app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8013")
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, method):
        return lambda *a, **k: self.loop.run_until_complete(getattr(self.client, method)(*a, **k))

    def together(self, requests):
        async def all_of():
            return await asyncio.gather(*(self.client.request(*one) for one in requests))

        return self.loop.run_until_complete(all_of())

    def joined(self):
        assert self.post("/join", content=b"consent=yes").status_code == 303
        return self

    def state(self):
        return self.get("/state").json()

    def say(self, trial, option=0, seconds=1.0, **more):
        return self.post("/answer", json={"trial": trial, "option": option, "seconds": seconds, "width": 200, **more})

    def finish(self, choose=lambda state: 0):
        state = self.state()
        while state["trial"] is not None:
            reply = self.say(state["trial"], choose(state))
            assert reply.status_code == 200, reply.text
            state = reply.json()
        return state


@pytest.fixture
def make(tmp_path):
    """A function that opens the tiny study (again) and gives a function that makes browsers."""

    def opened(clock=None, **changes):
        file = tmp_path / "tiny.yaml"
        file = file if file.exists() else tiny_study.write(tmp_path, **changes)
        one = session.open_study(file, tmp_path / "store")
        if clock:
            one._clock = clock
        app = Server(one, KEY, rate=1e9, burst=10**9).app
        return one, lambda: Browser(app)

    return opened


def test_a_participant_goes_through_and_every_answer_is_there(make):
    one, browser = make()
    ada = browser()
    assert "I agree" in ada.get("/").text and ada.get("/state").status_code == 401
    ada.joined()
    assert "study.js" in ada.get("/").text
    ada.finish(lambda state: len(state["options"]) - 1)
    table = answers.of_store(one.store)
    assert len(table) == len(one.trials(0)) == 8 + 7 and set(table.origin) == {"browser"}
    for row, trial in zip(table.itertuples(), one.trials(0)):
        assert row.chosen == answers.named(trial.options[-1]) and row.width == 200
        assert (row.correct == 1) == (trial.right == len(trial.options) - 1)
    assert ada.state()["trial"] is None and one.store.finished() == 1


def test_a_study_begins_with_consent_and_keeps_nothing_but_a_token(make):
    one, browser = make()
    ada = browser()
    assert ada.post("/join", content=b"").status_code == 422 and ada.state().get("error")
    ada.joined()
    (cookie,) = ada.client.cookies.jar
    assert (cookie.name, cookie.has_nonstandard_attr("HttpOnly")) == (COOKIE, True)
    assert cookie.value not in one.store.file.read_bytes().decode("latin1") + str(one.store.participants())
    assert set(one.store.participants()[0]) == {"number", "origin", "joined", "seen", "finished", "answers", "failed"}


def test_a_closed_tab_or_a_restarted_server_loses_and_doubles_nothing(make):
    one, browser = make()
    ada = browser().joined()
    for k in range(4):
        assert ada.say(k).status_code == 200
    one.store.close()
    again, browser = make()
    back = browser()
    back.client.cookies = ada.client.cookies
    assert back.state()["trial"] == 4
    assert back.say(3, 0).status_code == 200 and len(again.store.answers()) == 4  # repeated after a lost reply
    back.finish()
    assert [row["trial"] for row in again.store.answers()] == list(range(15))


def test_two_tabs_and_the_back_button(make):
    one, browser = make()
    ada = browser().joined()
    assert ada.state()["trial"] == ada.state()["trial"] == 0  # two tabs show the same trial
    assert ada.say(0, 1).status_code == 200
    late = ada.say(0, 0)  # the other tab, or a page that the browser had kept
    assert late.status_code == 409 and "first answer stands" in late.json()["error"]
    assert ada.state()["trial"] == 1 and [row["position"] for row in one.store.answers()] == [1]


def test_two_tabs_at_the_same_moment_keep_one_answer(make):
    one, browser = make()
    ada = browser().joined()
    body = {"trial": 0, "seconds": 1.0, "width": 9}

    async def all_of():
        return await asyncio.gather(*(ada.client.post("/answer", json={**body, "option": k % 2}) for k in range(20)))

    codes = [reply.status_code for reply in ada.loop.run_until_complete(all_of())]
    assert sorted(set(codes)) == [200, 409] and codes.count(200) == codes.count(409) == 10
    assert len(one.store.answers()) == 1


def test_answers_are_checked(make):
    one, browser = make(least_seconds=0.5)
    clock = one._clock = Clock()
    ada = browser().joined()
    ada.state()
    clock.now += 5
    trials = [(trial, 0, 1) for trial in (99, -1, 5, "0", True, None, 1.0)]
    options = [(0, option, 1) for option in (7, -1, [], 1.5, "0", None)]
    times = [(0, 0, seconds) for seconds in ("1", None, 0.1, -3, True, [])]
    for wrong in trials + options + times:
        assert ada.say(*wrong).status_code in (404, 422), wrong
    odd, as_json = b'{"trial":0,"option":0,"seconds":NaN}', {"content-type": "application/json"}
    assert ada.post("/answer", content=odd, headers=as_json).status_code == 422
    assert not one.store.answers()
    assert ada.say(0, 0, 0.6).status_code == 200
    assert ada.say(1, 0, 30.0).status_code == 422  # half a minute by the browser, no time at all by the server
    clock.now += 0.6
    assert ada.say(1, 0, 0.6, width="wide").status_code == 200
    rows = one.store.answers()
    assert [row["width"] for row in rows] == [200, None]
    assert rows[0]["server_seconds"] == 5 and abs(rows[1]["server_seconds"] - 0.6) < 1e-6


def test_a_clock_that_goes_backwards_loses_no_answer(make, monkeypatch):
    one, browser = make(least_seconds=0.5)
    clock = one._clock = Clock()
    ada = browser().joined()
    ada.state()
    clock.now -= 3600
    monkeypatch.setattr(store, "now", lambda: "1999-01-01T00:00:00+00:00")
    assert ada.say(0).status_code == 200
    (row,) = one.store.answers()
    assert row["server_seconds"] is None and row["seconds"] == 1.0 and ada.state()["trial"] == 1


def test_nobody_answers_for_another_and_wrong_tokens_open_nothing(make):
    one, browser = make()
    ada, bo = browser().joined(), browser().joined()
    ada.say(0)
    assert bo.state()["trial"] == 0
    for token in ("", "x", "0", "1 OR 1=1", "' OR ''='", "a" * 5000, "../../etc", "\x7f"):
        thief = browser()
        cookie = {"cookie": f"{COOKIE}={token}"}
        for reply in (
            thief.get("/state", headers=cookie),
            thief.get("/picture/0/0", headers=cookie),
            thief.post("/answer", json={"trial": 1, "option": 0, "seconds": 1}, headers=cookie),
            thief.post("/withdraw", content=b"withdraw=yes", headers=cookie),
        ):
            assert reply.status_code == 401
    assert len(one.store.answers()) == 1


def test_no_path_leads_out_of_ones_own_pictures(make):
    _, browser = make()
    ada = browser().joined()
    assert ada.get("/picture/0/0").headers["content-type"] == "image/png"
    pictures = (
        "0/2",
        "0/input",
        "99/0",
        "-1/0",
        "0/..%2f..%2fetc%2fpasswd",
        "0/%2e%2e",
        "0/blind",
        "0/0.png",
        "zero/0",
    )
    files = ("..%2fanswers.sqlite", "answers.sqlite", "tiny.yaml", "%00", "study.html", "web/../server.py", "base.html")
    for path in [f"/picture/{one}" for one in pictures] + [f"/{one}" for one in files]:
        assert ada.get(path).status_code == 404, path


def test_addresses_and_bytes_do_not_tell_the_arm(make):
    one, browser = make()
    ada, bo = browser().joined(), browser().joined()
    for client, number in ((ada, 0), (bo, 1)):
        text = json.dumps(client.state())
        assert not any(arm in text for arm in ("blind", "swap", "dual", "ada i", "attention", 'trial": "'))
        assert [f"/picture/0/{k}" for k in range(2)] == client.state()["options"]
        for k, arm in enumerate(one.trials(number)[0].options):
            data = client.get(f"/picture/0/{k}").content
            assert b"tEXt" not in data and b"iTXt" not in data and b"Arm" not in data
            shown = np.asarray(Image.open(io.BytesIO(data)))
            item = one.items[one.trials(number)[0].item]
            assert np.array_equal(shown, item.restored[arm]) if arm else shown.shape == item.input.shape
    firsts = {one.trials(n)[1].options[0] for n in range(12)}
    assert firsts == {"blind", "dual pivot"}  # the same address, either arm


class Scripts(HTMLParser):
    """What a page would run: script elements without a source of ours, and handlers."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        self.found += [tag] if tag == "script" and names.get("src") != "/study.js" else []
        self.found += [name for name in names if name.startswith("on")]


def test_a_script_in_every_text_field_stays_text(make):
    texts = dict.fromkeys(("title", "consent", "contact"), f"{SCRIPT}<img src=x onerror=alert(1)>")
    one, browser = make(**texts)
    for part in one.study.parts:
        object.__setattr__(part, "question", SCRIPT)
        object.__setattr__(part, "guidelines", SCRIPT)
    ada = browser()
    pages = [ada.get("/").text, ada.joined().get("/").text, ada.get(f"/manage?key={KEY}").text]
    for field, code in (("trial", 404), ("option", 404), ("seconds", 422), ("width", 200)):
        assert ada.say(**{"trial": 0, field: SCRIPT}).status_code == code
    assert SCRIPT not in str(one.store.answers())
    pages.append(ada.post("/withdraw", content=b"withdraw=yes").text)
    assert [Scripts(page).found for page in pages] == [[]] * 4 and "&lt;script&gt;" in pages[0]
    policy = ada.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    code = ada.get("/study.js").text
    assert "innerHTML" not in code and "eval(" not in code and not re.search(r"https?://", code)


def test_large_bodies_are_refused_unread(make):
    one, browser = make()
    ada = browser().joined()
    headers = {"content-type": "application/json"}

    async def endless():
        for _ in range(10_000):
            yield b"x" * 1024

    sent = 0

    async def counted():
        nonlocal sent
        async for chunk in endless():
            sent += len(chunk)
            yield chunk

    assert ada.post("/answer", content=b"x" * 10_000_000, headers=headers).status_code == 413
    assert ada.post("/answer", content=counted(), headers=headers).status_code == 422
    assert ada.post("/answer", content=b"[" * 4000, headers=headers).status_code == 422
    assert ada.post("/answer", content=b'{"trial":0}', headers={"content-type": "text/plain"}).status_code == 422
    assert not one.store.answers()


def test_a_thousand_requests_of_one_participant_slow_only_them(make):
    one, browser = make()
    app = Server(one, KEY).app
    loud, quiet = Browser(app).joined(), Browser(app).joined()
    codes = [reply.status_code for reply in loud.together([("GET", "/state")] * 1000)]
    assert codes.count(200) < 300 and codes.count(429) > 700 and set(codes) == {200, 429}
    assert quiet.say(0).status_code == 200 and len(one.store.answers()) == 1
    guesses = [Browser(app).get("/manage", params={"key": str(k)}).status_code for k in range(30)]
    assert guesses.count(401) < 15 and guesses.count(429) > 15


def test_other_hosts_and_methods_are_refused(make):
    _, browser = make()
    ada = browser().joined()
    assert ada.get("/", headers={"host": "evil.example"}).status_code == 400
    assert ada.delete("/answer").status_code == ada.put("/join").status_code == 405


def test_the_page_in_charge_needs_its_key_and_shows_who_is_where(make):
    one, browser = make()
    ada = browser().joined()
    ada.finish()
    browser().joined()
    for path in ("/manage", "/manage?key=", "/manage?key=wrong", "/manage/answers.csv", "/manage/answers.csv?key=%00"):
        assert ada.get(path).status_code == 401
    page = ada.get("/manage", params={"key": KEY}).text
    assert "1 of 40" in page and "15 of 15" in page and "0 of 15" in page
    text = ada.get("/manage/answers.csv", params={"key": KEY}).text
    table = answers.checked(pd.read_csv(io.StringIO(text)))
    assert len(table) == 15 and list(table.columns) == list(answers.COLUMNS)


def test_a_participant_may_withdraw_and_the_next_takes_the_place(make):
    one, browser = make()
    ada, bo = browser().joined(), browser().joined()
    ada.say(0)
    bo.say(0)
    assert "deleted" in ada.post("/withdraw", content=b"withdraw=yes").text
    assert [row["participant"] for row in one.store.answers()] == [1] and ada.get("/state").status_code == 401
    browser().joined()
    assert [person["number"] for person in one.store.participants()] == [0, 1]


def test_a_study_is_full_when_enough_have_finished_or_twice_as_many_begun(make):
    _, browser = make(participants=1)
    ada = browser().joined()
    browser().joined()
    assert browser().post("/join", content=b"consent=yes").status_code == 403
    ada.finish()
    assert "as many participants as it needs" in browser().get("/").text


def test_the_store_is_of_one_study(make, tmp_path):
    one, _ = make()
    with pytest.raises(StoreError, match="another study"):
        store.Store(tmp_path / "store", "0" * 16)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / store.FILE).write_text("no database" * 1000)
    with pytest.raises(StoreError, match="Remedy"):
        store.Store(tmp_path / "other", "0" * 16)


def test_the_widget_shows_the_same_trials_on_the_same_store(make):
    from lib.user_study.widget import Trials

    one, browser = make()
    browser().joined().finish()
    clock = Clock()
    shown = Trials(one, clock=clock)
    shown.box.children[-1].click()
    for trial in one.trials(1):
        assert len(shown.buttons) == len(trial.options)
        picture = shown.box.children[2].children[0].children[0].value
        assert picture == one.picture(1, shown.index, "0")
        clock.now += 1.5
        shown.buttons[0].click()
    assert "Thank you" in shown.box.children[0].value
    table = shown.answers()
    assert set(table.origin) == {"browser", "notebook"} and (table[table.participant == 1].seconds == 1.5).all()


def test_a_session_refuses_by_name(make):
    one, _ = make(least_seconds=0.5)
    number = one.participant(one.join())
    with pytest.raises(UnknownTrialError):
        one.answer(number, 3, 0, 1.0)
    with pytest.raises(TooFastError):
        one.answer(number, 0, 0, 0.4)
    one.answer(number, 0, 0, 1.0)
    with pytest.raises(AnsweredError):
        one.answer(number, 0, 1, 1.0)


def test_a_table_cannot_run_in_a_spreadsheet():
    row = dict.fromkeys(answers.COLUMNS, "=HYPERLINK(1)") | {"seconds": 1.0}
    assert not re.search(r"(^|,)=", answers.to_csv([row]).splitlines()[1])
