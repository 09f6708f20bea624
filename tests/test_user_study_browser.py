"""One participant's whole study in a real browser: by keyboard at a desk, by touch on a phone, and after a closed tab.

Needs playwright (pip install playwright) and a chromium of the system (Debian: apt install chromium); neither is a
requirement of the workbook. With WORKBOOK_SCREENSHOTS=FOLDER it leaves pictures of every kind of screen there.
"""

import os
import shutil
from pathlib import Path

import pytest
import tiny_study
import user_study_load

from lib.user_study import answers

sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt install chromium")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS = f"{QUIET} --disable-component-update --disable-sync".split()
DESK = dict(viewport=dict(width=1366, height=768))
PHONE = dict(viewport=dict(width=390, height=780), device_scale_factor=2, is_mobile=True, has_touch=True)
MOVED = """note => note !== document.getElementById("note").textContent || document.getElementById("trial").hidden"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    one = user_study_load.Process(tiny_study.write(root, least_seconds=0.1), root / "store").start()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


class Participant:
    """A browser context on the study, and what it did wrong."""

    def __init__(self, browser, server, name, **screen):
        self.context, self.server, self.name = browser.new_context(**screen), server, name
        self.wrong, self.chosen = [], []
        self.open()

    def open(self):
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "request", lambda one: one.url.startswith((self.server.address, "data:")) or self.wrong.append(one.url)
        )
        self.page.goto(self.server.address)

    def picture(self, what):
        if folder := os.environ.get("WORKBOOK_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{self.name}-{what}.png")

    def step(self, choose):
        """One screen on: guidelines, or a trial. Returns whether there was one."""
        self.page.wait_for_selector("#start:visible, #options button:visible, #end:visible")
        if self.page.is_visible("#end"):
            return False
        if self.page.is_visible("#start"):
            self.picture("guidelines")
            self.page.click("#start")
            return True
        self.check_screen()
        note = self.page.inner_text("#note")
        self.page.wait_for_timeout(180)  # longer than least_seconds
        self.picture(f"trial{len(self.chosen)}")
        option = len(self.chosen) % self.page.locator("#options button").count()
        choose(self.page, option)
        self.chosen.append(option)
        self.page.wait_for_function(MOVED, arg=note)
        return True

    def check_screen(self):
        """Every restoration is equally large, whole, and inside the screen."""
        boxes = [one.bounding_box() for one in self.page.locator("#options img").all()]
        assert len({(box["width"], box["height"]) for box in boxes}) == 1 and boxes[0]["width"] >= 100
        width = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width <= 0


def by_key(page, option):
    page.keyboard.press(str(option + 1))


def by_touch(page, option):
    page.locator("#options button").nth(option).tap()


@pytest.mark.parametrize(("name", "screen", "choose"), [("desk", DESK, by_key), ("phone", PHONE, by_touch)])
def test_a_whole_study_in_a_browser(browser, server, name, screen, choose):
    ada = Participant(browser, server, name, **screen)
    ada.picture("consent")
    ada.page.click("text=I agree")
    while len(ada.chosen) < 4:
        assert ada.step(choose)
    ada.page.close()  # in the middle, to come again
    ada.open()
    while ada.step(choose):
        pass
    ada.picture("end")
    table = answers.read(server.store)
    mine = table[table.participant == table.participant.max()]
    assert list(mine.position) == ada.chosen and len(mine) == 15
    assert mine.seconds.between(0.1, 10).all() and (mine.width >= 100).all()
    assert (mine.seconds <= mine.server_seconds + 0.05).all()
    assert ada.wrong == []


def test_a_killed_server_is_waited_for(browser, server):
    ada = Participant(browser, server, "killed", **DESK)
    ada.page.click("text=I agree")
    for _ in range(3):
        ada.step(by_key)
    ada.page.wait_for_selector("#options button")
    ada.page.wait_for_timeout(200)
    note = ada.page.inner_text("#note")
    server.kill()
    by_key(ada.page, 1)
    ada.page.wait_for_selector("text=The connection is lost")
    ada.picture("lost")
    server.start()
    ada.page.wait_for_function(MOVED, arg=note)
    ada.chosen.append(1)
    while ada.step(by_key):
        pass
    table = answers.read(server.store)
    assert list(table[table.participant == table.participant.max()].position) == ada.chosen
