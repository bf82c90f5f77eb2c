"""
Take screenshots of the page of a run of 200 shots.

``python -m tests.system_tools.browser.screenshots FOLDER``

The command ``batch`` runs against the fake on virtual time; tasks fail and responses are lost. The screenshots, wide
and narrow, light and dark, are written to FOLDER. Figures are printed: the position of a playing video, the requests
of the page, and the findings of axe-core.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.batch.whole_run import run_batch
from kie_async.cli.demo import PROMPTS
from kie_async.cli.options import JournalFile
from kie_async.cli.output import Output
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault, virtual_time

SHOTS = 200
_ENDINGS = (
    "",
    ", while the camera pulls back slowly and the light turns from gold to blue over everything that can be seen",
    ', <b>bold</b> & "quoted" <script>alert(1)</script>',
    ", und ein Hauch von Nebel zieht auf",
)
AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


def write_table(folder: Path) -> Path:
    """Write a table of two hundred shots of the bundled images."""
    path = folder / "shots.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "prompt", "resolution", "seed"])
        names = list(PROMPTS)
        for n in range(SHOTS):
            name = names[n % len(names)]
            image = f"{name}.jpg" if n % 29 != 11 else "https://images.example.com/stills/harbour-at-dusk.jpg"
            seed = "" if n % 3 else n * 7919
            writer.writerow([image, PROMPTS[name] + _ENDINGS[n // 6 % 4], ("480p", "720p")[n % 5 == 0], seed])
    for bundled in (files("kie_async.cli") / "data").iterdir():
        (folder / bundled.name).write_bytes(bundled.read_bytes())
    return path


async def run_table(folder: Path) -> None:
    """Run the table."""
    lost = [Fault("create", "reset", after=True, nth=nth) for nth in (23, 61, 140)]
    async with FakeKie(seed=5, fail_rate=0.04, faults=lost) as fake:
        session = Session(output=Output(out=io.StringIO(), err=io.StringIO()), api_key="any-key", url=fake.url)
        options = BatchOptions(
            table=write_table(folder), out=folder / "out", journal=JournalFile(folder / "kie.db"), budget=9_000.0
        )
        code = await run_batch(session, options)
        truth = fake.truth
        sys.stdout.write(
            f"exit code {code}; {len(truth.tasks)} tasks, at most {truth.busiest_window()} creates in any 10 s,"
            f" {len(truth.rate_limited)} refused\n"
        )


def take_screenshots(browser: Browser, folder: Path, *, width: int, height: int, scheme: str) -> None:
    """Take screenshots and measure the page at one size."""
    page = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=2 if width < SHOTS * 5 else 1,
    ).new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / "out" / "index.html").as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"page-{width}-{scheme}.png")
    page.evaluate("scrollTo(0, document.querySelector('main').offsetTop - 60)")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"shots-{width}-{scheme}.png")
    page.locator("input[value=failed] + span").click()
    page.wait_for_timeout(300)
    page.screenshot(path=folder / f"failed-{width}-{scheme}.png")
    page.locator("input[value=''] + span").click()
    video = page.locator(".card video").nth(1)
    video.scroll_into_view_if_needed()
    video.hover()
    page.wait_for_timeout(1500)
    position = video.evaluate("video => video.currentTime")
    video.click()
    page.wait_for_timeout(800)
    page.screenshot(path=folder / f"large-{width}-{scheme}.png")
    page.keyboard.press("Escape")
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")
    inside = (folder / "out").as_uri()
    elsewhere = [url for url in requests if not url.startswith((inside, "data:"))]
    sys.stdout.write(
        f"{width} {scheme}: currentTime {position:.2f} s after 1.5 s; {len(requests)} requests,"
        f" {len(elsewhere)} of them to other places; axe-core: {len(found['violations'])} violations,"
        f" {len(found['passes'])} rules passed,"
        f" undecided: {dict(Counter(rule['id'] for rule in found['incomplete']))}\n"
    )


def main() -> None:
    """Run the table, and take the screenshots."""
    folder = Path(sys.argv[1]).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    virtual_time(run_table, folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in ((1440, 900), (390, 844)):
            for scheme in ("light", "dark"):
                take_screenshots(browser, folder, width=width, height=height, scheme=scheme)
        browser.close()


if __name__ == "__main__":
    main()
