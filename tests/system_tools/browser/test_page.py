"""The page of a batch in a real Chromium, opened from the file system."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from kie_async.cli.batch.manifest import EntryState
from tests.cli.batch.helpers import MARKUP, make_entry, make_folder

#: The source of axe-core.
AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
SCHEMES = ("light", "dark")

Opened: TypeAlias = Callable[..., Page]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run of 200 shots in all states."""
    states = {7: EntryState.FAILED, 12: EntryState.IN_DOUBT, 19: EntryState.SKIPPED, 88: EntryState.FAILED}
    shots = [
        make_entry(line, states.get(line, EntryState.DONE), prompt=f"Shot {line} of the cat, number {line * line}")
        for line in range(2, 202)
    ]
    shots[1] = make_entry(3, prompt=MARKUP)
    shots[2] = make_entry(4, image=None, source="https://images.example/cat.png")
    return make_folder(tmp_path_factory.mktemp("run") / "out", shots, total=210)


class PageLog:
    """The requests and the error messages of a page."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.own = (folder.as_uri(), "data:")
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _record_message(self, message: ConsoleMessage) -> None:
        self.errors.append(message.text)


@pytest.fixture
def open_page(chromium: Browser, index: Path) -> Generator[Opened]:
    """Open pages in fresh profiles, and check that none has errors or requests to other places."""
    logs: list[PageLog] = []

    def opened(*, size: str = "wide", path: Path = index, **options: Any) -> Page:
        width, height = SIZES[size]
        page = chromium.new_context(viewport={"width": width, "height": height}, **options).new_page()
        logs.append(PageLog(page, path.parent))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in chromium.contexts:
        context.close()
    assert [[] for _ in logs] == [log.errors for log in logs]
    assert [] == [url for log in logs for url in log.requests if not url.startswith(log.own)]


def shown(page: Page) -> list[str]:
    """Return the lines of the visible cards, in order."""
    lines: list[str] = page.evaluate(
        "[...document.querySelectorAll('.card:not([hidden])')].map(card => card.dataset.line)"
    )
    return lines


def until(page: Page, expression: str) -> None:
    """
    Wait until something holds; bounded.

    Playwright's own way evaluates a text inside of the page, which the page's policy forbids, rightly.
    """
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never: {expression}")


def second_of(page: Page, video: str) -> float:
    """Return the position of a video, in seconds."""
    return float(page.evaluate(f"document.querySelector('{video}').currentTime"))


def test_video_plays_under_the_pointer(open_page: Opened) -> None:
    """Nothing is loaded before; it stops when the pointer leaves."""
    page = open_page()
    video = "#shot-1 video"
    assert 0 == page.evaluate(f"document.querySelector('{video}').readyState")

    page.locator("#shot-1").hover()
    until(page, f"document.querySelector('{video}').currentTime > 0.3")
    page.mouse.move(1, 1)
    until(page, f"document.querySelector('{video}').paused")
    stood_at = second_of(page, video)
    page.wait_for_timeout(200)

    assert stood_at == second_of(page, video)


def test_posters_load_near_the_viewport(open_page: Opened) -> None:
    page = open_page()

    assert 0 == page.locator("#shot-200 video[poster]").count()
    page.locator("#shot-200").scroll_into_view_if_needed()
    until(page, "document.querySelector('#shot-200 video').poster.endsWith('inputs/cat.jpg')")


def test_markup_in_prompts_stays_text(open_page: Opened) -> None:
    """The card and the viewer show it as text."""
    page = open_page()
    expect(page.locator("#shot-2 .prompt")).to_have_text(MARKUP)
    page.locator("#shot-2 .open").click()
    expect(page.locator("#viewer-prompt")).to_have_text(MARKUP)

    assert 0 == page.locator("[src*=evil]").count()
    assert 1 == page.locator("script").count()


def test_markup_in_other_fields_stays_text(open_page: Opened, tmp_path: Path) -> None:
    """Key, reason, command, image URL and table name are escaped."""
    texts = {"key": f"\u05d0 {MARKUP}", "reason": MARKUP, "command": MARKUP, "source": f"https://a.example/{MARKUP}"}
    shots = [
        make_entry(1, EntryState.FAILED, **texts, image=None, task_id=MARKUP, job_id=MARKUP),
        make_entry(
            2, prompt="\x00\x1b[2J\u202e" + "long" * 2000, key="k" * 512, input={"prompt": MARKUP, MARKUP: MARKUP}
        ),
    ]
    page = open_page(path=make_folder(tmp_path / "out", shots, title=f"{MARKUP}.csv"))
    expect(page.locator("#shot-1 .key")).to_have_text(texts["key"])
    expect(page.locator("#shot-1 .reason")).to_have_text(MARKUP)
    page.locator("#shot-1 .none").click()
    expect(page.locator("#viewer-notes pre")).to_have_text(MARKUP)

    assert 0 == page.locator("[src*=evil]").count()
    assert 1 == page.locator("script").count()
    assert f"{MARKUP}.csv" == page.locator("h1").text_content()
    assert 1440 == page.evaluate("document.documentElement.scrollWidth")


def test_content_policy_admits_only_own_script(open_page: Opened) -> None:
    """The policy is a second defense if escaping fails."""
    policy = open_page().locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""

    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy


def test_cards_can_be_filtered_and_searched(open_page: Opened) -> None:
    page = open_page()
    assert [str(line) for line in range(2, 202)] == shown(page)

    page.get_by_text("Failed 2").click()
    assert ["7", "88"] == shown(page)
    page.get_by_role("searchbox").fill("number 7744")
    expect(page.locator("#count")).to_have_text("1 of 200 shown")
    assert ["88"] == shown(page)
    page.get_by_role("searchbox").fill("no such words")
    page.get_by_role("button", name="Show all").click()
    assert 200 == len(shown(page))


def test_cards_can_be_sorted(open_page: Opened) -> None:
    """Cards without a figure are last in either order."""
    page = open_page()
    seconds = {str(line): 20.0 + line * 37 % 41 for line in range(2, 202) if line not in (12, 19)}

    page.locator("#sort").select_option("-seconds")
    slowest = shown(page)
    page.locator("#sort").select_option("seconds")
    fastest = shown(page)

    assert sorted(seconds, key=lambda line: (-seconds[line], int(line))) == slowest[:-2]
    assert sorted(seconds, key=lambda line: (seconds[line], int(line))) == fastest[:-2]
    assert ["12", "19"] == slowest[-2:] == fastest[-2:]


def test_page_works_by_keyboard_alone(open_page: Opened) -> None:
    page = open_page()
    press = page.keyboard.press
    focused = "document.activeElement.closest('.card')?.id"

    press("j")
    press("ArrowRight")
    assert "shot-2" == page.evaluate(focused)
    press("ArrowDown")
    assert "shot-5" == page.evaluate(focused), "three in a row"
    until(page, "document.querySelector('#shot-5 video').currentTime > 0")
    press("Enter")
    press("ArrowRight")
    expect(page.locator("#viewer-title")).to_have_text(page.locator("#shot-6 h3").inner_text())
    press("Escape")
    until(page, f"{focused} === 'shot-6'")
    press("4")
    assert ["12"] == shown(page)[:1]
    press("/")
    page.keyboard.type("no such shot")
    expect(page.locator("#empty")).to_be_visible()
    press("Escape")
    assert 200 == len(shown(page))
    press("?")
    expect(page.locator("#help")).to_be_visible()


def test_urgent_card_shows_reason_and_command(open_page: Opened) -> None:
    """The command can be copied from the card and from the viewer."""
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    doubtful = page.locator("#shot-11")
    expect(doubtful.locator(".reason")).to_have_text("It is in_doubt, for a reason.")
    doubtful.get_by_role("button", name="Copy").click()
    expect(doubtful.locator(".copy")).to_have_text("Copied")

    assert "kie-async resolve --journal out/journal.db kj_12 TASKID" == page.evaluate("navigator.clipboard.readText()")
    doubtful.locator(".none").click()
    expect(page.locator("#viewer-notes pre")).to_have_text("kie-async resolve --journal out/journal.db kj_12 TASKID")


def test_remote_image_is_not_fetched(open_page: Opened) -> None:
    page = open_page()
    link = page.locator("#shot-3 .input a")

    expect(link).to_have_text("images.example")
    assert "noreferrer noopener" == link.get_attribute("rel")


def test_colors_follow_system_or_choice(open_page: Opened) -> None:
    page = open_page(color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(back)
    page.get_by_role("button", name="Auto colors").click()
    light = page.evaluate(back)

    assert ("rgb(14, 16, 20)", "rgb(244, 245, 247)") == (dark, light)
    page.reload()
    assert light == page.evaluate(back), "the choice is stored"


def test_page_works_without_scripts(open_page: Opened) -> None:
    """All cards are shown, and each has a link to its video."""
    page = open_page(java_script_enabled=False)

    expect(page.locator(".card")).to_have_count(200)
    assert (page.locator("#shot-1 .open").get_attribute("href") or "").endswith(".mp4")
    expect(page.locator("#tools")).to_be_hidden()


def test_header_sums_up_the_run(open_page: Opened) -> None:
    page = open_page()
    tiles = page.locator(".tile").all_inner_texts()

    assert ["Done", "Failed", "In doubt", "Not sent", "Not started", "Credits", "Median time", "Fullest 10 s"] == [
        tile.split("\n")[0] for tile in tiles
    ]
    assert ["196 of 210", "2", "1", "1", "10"] == [" ".join(tile.split("\n")[1:]) for tile in tiles[:5]]
    expect(page.get_by_role("img", name="Creates in 10 seconds")).to_be_visible()
    expect(page.get_by_role("img", name="Durations")).to_be_visible()


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """Return the rules that axe-core finds violated, with the elements."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    assert found["passes"]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found["violations"]]


@pytest.mark.parametrize("size", list(SIZES))
def test_axe_finds_nothing_in_a_long_run(open_page: Opened, size: str) -> None:
    """axe-core checks 200 shots at either width."""
    assert [] == violations(open_page(size=size))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a run with one shot in each state."""
    entries = [make_entry(line, state) for line, state in enumerate(EntryState, 1)]
    return make_folder(tmp_path_factory.mktemp("short") / "out", entries)


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("view", ["page", "shot", "doubt", "keys"])
def test_axe_finds_nothing_in_any_view(open_page: Opened, short: Path, size: str, scheme: str, view: str) -> None:
    """axe-core checks every size, color scheme and view."""
    page = open_page(size=size, color_scheme=scheme, path=short)
    if view in ("shot", "doubt"):
        page.locator("#shot-1 .open" if view == "shot" else "#shot-3 .none").click()
    elif view == "keys":
        page.keyboard.press("?")

    assert [] == violations(page)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_chart_labels_have_enough_contrast(open_page: Opened, short: Path, scheme: str) -> None:
    """axe-core cannot decide the contrast of text in SVG, so it is computed here (WCAG 2.2, 1.4.3)."""
    page = open_page(path=short, color_scheme=scheme)
    page.evaluate(AXE)
    undecided = page.evaluate("axe.run()")["incomplete"]
    words = page.evaluate(
        "[...document.querySelectorAll('figure text')].map(text => [getComputedStyle(text).fill,"
        " getComputedStyle(text.closest('figure')).backgroundColor])"
    )

    assert {True} == {node["html"].startswith("<text") for rule in undecided for node in rule["nodes"]}
    assert 4.5 <= min(contrast(*pair) for pair in words)


def contrast(text: str, back: str) -> float:
    """Return the contrast ratio of two colors, 1 to 21, by the formula of WCAG 2.2."""
    light, dark = sorted((luminance(text), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    """Return the relative luminance of a color such as ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [320, 390, 768, 1440, 2560])
def test_nothing_is_wider_than_the_window(open_page: Opened, width: int) -> None:
    page = open_page()
    page.set_viewport_size({"width": width, "height": 800})

    assert width == page.evaluate("document.documentElement.scrollWidth")


def test_percent_signs_in_file_names_work(open_page: Opened, tmp_path: Path) -> None:
    """File names as ``save_to`` writes them are quoted in URLs."""
    name = "a%2Fb #1?x&y.mp4"
    page = open_page(path=make_folder(tmp_path / "out", [make_entry(1, file=name)]))
    page.locator("#shot-1").hover()

    until(page, "document.querySelector('#shot-1 video').currentTime > 0")
