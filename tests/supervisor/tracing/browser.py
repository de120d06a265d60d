"""Chromium without a screen, for the page that shows a trace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from attrs import define, field

from supervisor.tracing.page import write_page
from supervisor.tracing.records import Trace
from tests.interop.peers import missing

try:
    from playwright.sync_api import Browser, Page, sync_playwright
except ImportError:
    missing("playwright is not installed: pip install playwright")

WIDTH: Final = 1280
HEIGHT: Final = 800
PAINTED: Final = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Waits for the frame after the next, when all that was asked for has been drawn."""
Scheme = Literal["light", "dark"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that runs; the test is over (see ``missing``) where none is installed."""
    path = shutil.which("chromium")
    if path is None:
        missing("chromium is not installed: it is in the Debian package chromium")
    # Chromium's own sandbox refuses to be root's.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@define
class Shown:
    """A trace that a browser shows, and what the page asked for and complained about meanwhile."""

    page: Page
    path: Path
    requests: list[str] = field(factory=list)
    complaints: list[str] = field(factory=list)

    def hook(self, expression: str) -> object:
        """What the page's hook for tests says, such as ``matches`` or ``visible(3)``."""
        value: object = self.page.evaluate(f"window.muxlink.{expression}")
        return value

    def texts(self, selector: str) -> list[str]:
        """What stands in the elements that one sees, in their order on the page."""
        return [element.inner_text() for element in self.page.query_selector_all(selector) if element.is_visible()]

    def press(self, *keys: str) -> None:
        """Press keys one after the other, and wait until what they do is painted."""
        for key in keys:
            self.page.keyboard.press(key)
        self.page.evaluate(PAINTED)

    def figures(self, name: str) -> dict[str, float]:
        """One of the hook's groups of numbers."""
        value = self.hook(name)
        assert isinstance(value, dict)
        return value


@contextmanager
def shown(browser: Browser, trace: Trace, folder: Path, scheme: Scheme = "light") -> Iterator[Shown]:
    """Write the trace's page into ``folder``, and open it from there in a window of its own."""
    path = folder / "trace.html"
    with path.open("w", encoding="utf-8") as file:
        write_page(trace, file)
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
    page = context.new_page()
    found = Shown(page, path)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("console", lambda message: found.complaints.append(f"{message.type}: {message.text}"))
    try:
        page.goto(path.as_uri())
        # Painted, too, not only computed.
        page.evaluate(PAINTED)
        yield found
    finally:
        context.close()
