"""The report as people see it: opened from disk in a real browser, light and dark, wide and narrow."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ununennium.evaluation.chip_pictures import draw_chips
from ununennium.report.run import write_report

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def chromium():
    """A Chromium of the system's own, headless."""
    program = os.environ.get("UNUNENNIUM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium, which this system does not have (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'ununennium-eo[docs]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def report(judged, predicted):
    index, prediction, _ = predicted
    draw_chips(index, prediction, 32, judged.pictures_folder)
    return write_report(judged)


@pytest.mark.slow
def test_the_report_is_whole_quiet_and_reaches_for_nothing(chromium, report, tmp_path):
    for scheme, size in (("light", WIDE), ("dark", WIDE), ("light", NARROW)):
        page = chromium.new_page(color_scheme=scheme, viewport=size)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
        _check_pictures(page)
        _check_structure(page)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        picture = tmp_path / f"{scheme}-{size['width']}.png"
        page.screenshot(path=picture)
        _check_screenshot(picture, scheme)
        page.close()


def _check_pictures(page) -> None:
    sizes = page.eval_on_selector_all("img", "all => all.map(one => [one.naturalWidth, one.alt])")
    assert len(sizes) > 8
    assert all(width > 0 and alt for width, alt in sizes)
    charts = page.eval_on_selector_all("svg.chart", "all => all.map(one => one.getAttribute('aria-label'))")
    assert len(charts) >= 3
    assert all(charts)


def _check_structure(page) -> None:
    """One first heading, no level left out, headings of tables, links within the page, focus by keyboard."""
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.eval_on_selector_all("table", "all => all.every(one => one.caption && one.querySelector('th[scope]'))")
    assert page.eval_on_selector_all(
        "nav a", "all => all.length > 5 && all.every(one => document.querySelector(one.hash))"
    )
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("window.scrollTo(0, 0)")


def _check_screenshot(file: Path, scheme: str) -> None:
    """The paper is light or dark as asked for, and something stands on it."""
    grey = np.asarray(Image.open(file).convert("L"), float)
    paper = np.median(grey)
    assert paper > 200 if scheme == "light" else paper < 60
    assert (abs(grey - paper) > 100).mean() > 0.01
