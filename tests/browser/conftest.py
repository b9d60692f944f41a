"""What the tests in a browser share: a real Chromium, and the page of one experiment open in it.

They are not part of `pytest`: `make test-page` runs them.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pages
import pytest

from analysis.__main__ import main

sync_api = pytest.importorskip("playwright.sync_api", reason="takes playwright: pip install 'lora-init-dynamics[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    if not CHROMIUM:
        pytest.skip("takes chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> tuple[Path, object]:
    """The page of some runs, and their table."""
    folder = tmp_path_factory.mktemp("report")
    frame = pages.outputs(folder, noise=0.3)
    assert main(["report", "--experiment", pages.EXPERIMENT, "--outputs", str(folder)]) == 0
    return folder / "figures" / pages.EXPERIMENT / "report.html", frame


@pytest.fixture
def opened(browser, report) -> Iterator[Callable[..., object]]:
    """`opened(hash="", **options)`: the page in a window of its own; whatever goes wrong in it fails the test at its end."""
    wrong, contexts = [], []

    def open_page(fragment: str = "", path: Path = report[0], **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#rates svg path[aria-roledescription], #rates svg .mark-symbol path")
        page.wait_for_selector("#table tbody tr", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
