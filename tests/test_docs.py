"""The docs do not lie: what is generated is up to date, links lead somewhere, commands run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY
from tests.end_to_end.site import make_site, serve
from tests.plain_shell import BLOCK, SHELL, blocks, fresh_clone, script, site_as_demo, type_in
from tests.shared_build import Built

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
CODE = re.compile(r"`([a-z_]+/[\w./-]+\.(?:py|toml|md))`")
COMMAND_LINE = re.compile(r"^(?:    |\$ )?((?:headwater|make|python3?|pytest|torchrun|source) [a-z-].*)$", re.MULTILINE)
UNIDIOMATIC = re.compile(
    r"gone past|gone back from|for ever\b|\bat hand\b|\bbecame of\b|that gets on|反之亦然|映射阶段|带一个团队"
)
README = REPOSITORY / "README.md"
ASKED_ABOUT = {"sect.apt-get.html": "page-001.html", "debian-reference-zh": "site", "checkout demo ": "checkout tiny "}
"""What the docs ask about the demo, in terms of the test site."""
ACTIVATE = next(line + "\n" for line in script(README).splitlines() if line.startswith("source "))
TRANSLATIONS = {
    page: page.parent.parent / page.name if page.parent.name == "zh" else README
    for page in PAGES
    if page.parent.name == "zh" or page.name == "README.zh-CN.md"
}
RUN_PAGES = [page for page in PAGES if script(page) and page != README and page not in TRANSLATIONS]


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def commands(page: Path) -> list[str]:
    """Commands of a page, without the remarks behind them."""
    lines = [line for block in blocks(page) if block.language in SHELL for line in block.typed().splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def test_generated_parts_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}: run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [name for name in CODE.findall(text) if not (REPOSITORY / name).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_the_first_pages_say_how_to_test(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert "make check" in text and "make test" in text


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_phrase_that_no_reader_would_say(page: Path) -> None:
    assert UNIDIOMATIC.findall(page.read_text(encoding="utf-8")) == []


def test_make_targets_in_the_docs_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {t for page in PAGES for t in re.findall(r"\bmake ([a-z][a-z-]+)\b", page.read_text(encoding="utf-8"))}
    named -= {"it", "them", "venv's", "sense", "nothing", "a", "campaign-", "every"}
    assert {t for t in named if not re.search(rf"^{t}:", makefile, re.MULTILINE)} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_block_has_a_language_and_each_unrun_one_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language, f"```{block.text[:60]}: say which language it is; `text` for output and layouts"
        if block.language == "console":
            assert block.typed(), f"no line of {block.text[:60]!r} begins with `$ `: an `sh` block?"
        if block.language == "sh":
            assert not block.text.startswith("$ "), f"{block.text[:60]!r}: a `console` block?"
        if block.reason is not None:
            assert block.language in SHELL, f"{block.text[:60]!r} is no command"
            assert len(block.reason.split()) >= 3, f"{block.reason!r} is no reason"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_command_hides_where_it_is_not_run(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert COMMAND_LINE.findall(text) == [], "an indented block: fence it as sh"
    quiet = [block.text for block in blocks(page) if block.language not in SHELL]
    assert [line for block in quiet for line in COMMAND_LINE.findall(block)] == []


def test_a_translation_has_the_commands_of_its_original() -> None:
    assert TRANSLATIONS
    assert commands(REPOSITORY / "README.zh-CN.md") == commands(README)
    for translation, original in TRANSLATIONS.items():  # a page may be shorter, but says nothing that is not tried
        assert [line for line in commands(translation) if line not in commands(original)] == [], page_name(translation)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_clone(tmp_path_factory.mktemp("newcomer") / "headwater")


@pytest.fixture
def demo(clone: Path, built: Built, tmp_path: Path) -> dict[str, str]:
    """Variables that put a copy of the tests' build in place of a finished demo."""
    home = built.home.copy(tmp_path / "built")
    config = str(site_as_demo(home.config))
    return {"HEADWATER_HOME": str(home.state), "HEADWATER_CONFIG": config, "HEADWATER_TEST_PORT": str(home.port)}


def as_typed(text: str) -> str:
    """The page's commands, about the test site instead of the demo's."""
    for ours, theirs in ASKED_ABOUT.items():
        text = text.replace(ours, theirs)
    return text


@pytest.mark.timeout(900)
def test_readme_from_top_to_bottom_in_a_plain_shell(clone: Path, demo: dict[str, str], tmp_path: Path) -> None:
    """As a newcomer types it, a site of their own included."""
    root = make_site(tmp_path / "site", zh=5, en=5, fr=1)
    with serve(root) as port:
        done = type_in(as_typed(script(README)).replace("8000", str(port)), clone, **demo)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    said = done.stdout
    assert "page-001.html" in said, "headwater lineage"
    assert "debian-reference-zh" not in said
    assert said.count("What was made") == 1, "headwater run on the newcomer's site"
    assert "dropped by filtered_documents: language_not_wanted 1" in said, "the French page of it"
    assert f"http://127.0.0.1:{port}/zh/page-001.html" in said
    assert (clone.parent / "person/my-site/home/store.git").is_dir()


def test_without_the_line_for_the_path_there_is_no_headwater(clone: Path) -> None:
    """The harness is a shell that can see what is missing."""
    done = type_in("headwater --version", clone)
    assert done.returncode != 0
    assert "headwater: command not found" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN_PAGES, ids=page_name)
def test_a_page_in_a_plain_shell(page: Path, clone: Path, demo: dict[str, str]) -> None:
    """Read after README: its line for the PATH has been typed."""
    done = type_in(as_typed(ACTIVATE + script(page)), clone, **demo)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
