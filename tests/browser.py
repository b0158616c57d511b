"""What a page looks like to a reader: on a laptop, on a telephone, in the dark and printed."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright


def looked_at(files: list[Path], folder: Path) -> None:
    """Nothing missing, nothing hanging over, no complaint; screenshots and a PDF of each are put into the folder."""
    browser_file = shutil.which("chromium")
    if browser_file is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        for file in files:
            page = browser.new_page()
            _look(page, file, folder)
            page.close()
        browser.close()


def _look(page: Page, file: Path, folder: Path) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    for width, scheme in ((1280, "light"), (400, "light"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "hangs over"
        assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0 && one.alt)")
        assert page.evaluate("[...document.querySelectorAll('svg[role]')].every(one => one.ariaLabel)")
        paper, ink = page.evaluate("[getComputedStyle(document.body)].map(one => [one.backgroundColor, one.color])[0]")
        assert (_brightness(paper) > _brightness(ink)) == (scheme == "light")
        page.screenshot(path=folder / f"{file.stem}-{width}-{scheme}.png", full_page=True)
    page.pdf(path=folder / f"{file.stem}.pdf")
    assert complaints == []
    assert (folder / f"{file.stem}.pdf").stat().st_size > 10_000


def _brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
