"""One home with a whole build and a blocked crawl, its UI, and a browser, for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright (the dev extra has it)")

from playwright.sync_api import Browser

from tests.end_to_end.harness import Home
from tests.end_to_end.ui.driving import BLOCKED, WINDOW, Visitor, chromium, ui_of
from tests.shared_build import Built


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="package")
def home(browser: Browser, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The shared build, and one crawl more that lost most pages of a source: somebody shortened its list of files."""
    found = built.home.copy(tmp_path_factory.mktemp("ui") / "home")
    sources = found.config / "sources.toml"
    text = sources.read_text(encoding="utf-8")
    assert ', "email/*.py"' in text
    sources.write_text(text.replace(', "email/*.py"', ""), encoding="utf-8")
    stamp = BLOCKED.split("@")[1]
    said = found.headwater("run", "--recipe", "tiny", "--recrawl", "code", "--no-train", "--at", stamp, expect=None)
    assert "removed_pages_are_a_minority" in said.stderr, said.stderr
    return found


@pytest.fixture(scope="package")
def url(home: Home) -> Iterator[str]:
    with ui_of(home) as found:
        yield found


@pytest.fixture
def visitor(browser: Browser, url: str, tmp_path: Path) -> Iterator[Visitor]:
    """A fresh window, with no memory of others. No page of the test may complain, or ask anything of another host."""
    pictures = Path(os.environ.get("HEADWATER_UI_SCREENSHOTS") or tmp_path)
    with browser.new_context(viewport=WINDOW) as context:
        found = Visitor(context.new_page(), url, pictures)
        yield found
        assert found.complaints == []
        assert found.strangers == []
