"""sources.toml: what is accepted, and errors that name the file, the key and the rule."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from assets.build import BuildError
from assets.sources.config import FilesSource, WebSource, load_sources
from assets.sources.partition import crawl_name, parse_crawl

WEB = 'kind = "web"\nlicence = "CC0-1.0"\ndomain = "documentation"\nformat = "html"\n'
FILES = 'kind = "files"\nlicence = "CC0-1.0"\ndomain = "code"\nformat = "code"\nroot = "stdlib:"\n'


def load(tmp_path: Path, text: str, name: str = "a") -> dict[str, WebSource | FilesSource]:
    path = tmp_path / "sources.toml"
    path.write_text(f"[{name}]\n{text}", encoding="utf-8")
    return load_sources(path)


def test_the_demo_sources_are_valid() -> None:
    sources = load_sources(Path(__file__).parents[2] / "config" / "sources.toml")
    assert {name: source.kind for name, source in sources.items()} == {
        "debian-handbook": "web",
        "debian-reference-zh": "web",
        "python-code": "files",
    }
    handbook = sources["debian-handbook"]
    assert isinstance(handbook, WebSource)
    assert len(handbook.start_urls) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "ftp"\n', r"\[a\] kind.*'ftp' found .*'web', 'files'"),
        (WEB, r"\[a\] start_urls: Field required"),
        (WEB + 'start_urls = []\ncontact = "x"', r"\[a\] start_urls: .*at least 1"),
        (WEB + 'start_urls = ["ftp://h/"]\ncontact = "x"', r"\[a\] start_urls: .*not an http or https URL"),
        (WEB + 'start_urls = ["http://u:p@h/"]\ncontact = "x"', r"\[a\] start_urls: .*credentials"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\nmax_page = 3', r"\[a\] max_page: Extra inputs"),
        (WEB + 'start_urls = ["http://h/"]', r"\[a\] .*table as a whole: .*contact is needed"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\ndelay_s = 0', r"\[a\] .*table as a whole: .*below 0.1 s"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\npath_prefixes = ["d/"]', r"path_prefixes: .*begin with"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\nschedule = "daily"', r"schedule: .*cron line of five"),
        (FILES, r"\[a\] include: Field required"),
        (FILES + 'include = ["../*.py"]', r"\[a\] include: .*below root"),
        (FILES + 'include = ["*.py"]\nmax_depth = 3', r"\[a\] max_depth: Extra inputs"),
        ("kind = ", r"not valid TOML"),
    ],
)
def test_errors_name_file_key_and_rule(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message) as caught:
        load(tmp_path, text)
    assert "sources.toml" in str(caught.value)


def test_source_names_are_those_of_partitions(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"\[My_Site\].*lower-case"):
        load(tmp_path, FILES + 'include = ["*"]', name="My_Site")
    with pytest.raises(BuildError, match="does not exist"):
        load_sources(tmp_path / "absent.toml")


def test_crawl_names_round_trip() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert crawl_name("my-site", at) == "my-site@20260102T030405Z"
    assert parse_crawl("my-site@20260102T030405Z") == ("my-site", at)
    for wrong in (None, "", "site", "site@2026", "Site@20260102T030405Z", "site@20261302T030405Z"):
        with pytest.raises(BuildError, match="source@YYYYMMDDTHHMMSSZ"):
            parse_crawl(wrong)
