"""sources.toml: what is accepted, and errors that name the file, the key and the rule."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assets.build import BuildError
from assets.sources.config import SOURCE_FILE, FilesSource, SourceConfig, WebSource, declared_format, write_source
from assets.sources.partition import parse_crawl
from orchestration.config import REPOSITORY, ConfigError, read_toml, validate
from tests.builds import segment_of

WEB = 'kind = "web"\nlicence = "CC0-1.0"\ndomain = "documentation"\nformat = "html"\n'
FILES = 'kind = "files"\nlicence = "CC0-1.0"\ndomain = "code"\nformat = "code"\nroot = "stdlib:"\n'


def load(text: str) -> WebSource | FilesSource:
    return validate(SourceConfig, tomllib.loads(text), Path("sources.toml"), "a").root


def test_the_demo_sources_are_valid() -> None:
    tables = read_toml(REPOSITORY / "config" / "sources.toml")
    sources = {name: SourceConfig.model_validate(table).root for name, table in tables.items()}
    kinds = {name: source.kind for name, source in sources.items()}
    assert kinds == {"debian-handbook": "web", "debian-reference-zh": "web", "python-code": "files"}
    handbook = sources["debian-handbook"]
    assert isinstance(handbook, WebSource)
    assert len(handbook.start_urls) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "ftp"\n', r"'ftp' found .*'web', 'files'"),
        (WEB, r"start_urls: Field required"),
        (WEB + 'start_urls = []\ncontact = "x"', r"start_urls: .*at least 1"),
        (WEB + 'start_urls = ["ftp://h/"]\ncontact = "x"', r"start_urls: .*not an http or https URL"),
        (WEB + 'start_urls = ["http://u:p@h/"]\ncontact = "x"', r"start_urls: .*credentials"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\nmax_page = 3', r"max_page: unknown key"),
        (WEB + 'start_urls = ["http://h/"]', r"contact is needed"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\ndelay_s = 0', r"below 0.1 s"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\npath_prefixes = ["d/"]', r"path_prefixes: .*begin with"),
        (WEB + 'start_urls = ["http://h/"]\ncontact = "x"\nschedule = "daily"', r"schedule: .*cron line of five"),
        (FILES, r"include: Field required"),
        (FILES + 'include = ["../*.py"]', r"include: .*below root"),
        (FILES + 'include = ["*.py"]\nmax_depth = 3', r"max_depth: unknown key"),
        (WEB + 'start_urls = ["http://h:port/"]\ncontact = "x"', r"start_urls: .*[Pp]ort"),
    ],
)
def test_errors_name_file_key_and_rule(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"sources\.toml: a[.:].*{message}"):
        load(text)


def test_what_is_not_identity_is_not_in_the_data(tmp_path: Path) -> None:
    def recorded(extra: str) -> str:
        write_source(tmp_path, load(WEB + 'start_urls = ["http://h/"]\ncontact = "x"\n' + extra))
        return (tmp_path / SOURCE_FILE).read_text()

    assert recorded('schedule = "0 3 * * 1"\ndelay_s = 3\nconcurrency = 1') == recorded("")
    assert recorded("max_pages = 7") != recorded("")


def test_crawl_names_are_read_or_refused() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert parse_crawl("my-site@20260102T030405Z") == ("my-site", at)
    for wrong in (None, "", "site", "site@2026", "Site@20260102T030405Z", "site@20261302T030405Z"):
        with pytest.raises(BuildError, match="source@YYYYMMDDTHHMMSSZ"):
            parse_crawl(wrong)


def test_extraction_reads_the_format_of_a_kind_that_this_version_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / SOURCE_FILE).write_text('{"kind": "telegraph", "format": "text", "dots": 3}')
    assert declared_format(segment_of(tmp_path / "raw", "raw_crawl", "wire@20260101T000000Z")) == "text"
