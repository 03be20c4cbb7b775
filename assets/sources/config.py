"""One table of config/sources.toml: where documents come from, under which licence and which limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, RootModel, field_validator, model_validator

from assets.build import Segment
from assets.documents.formats.media_types import Declared
from assets.sources.bulk_config import AnyBulkSource
from assets.sources.source_table import SourceTable
from assets.sources.variables import refuse_credentials, without_userinfo

SOURCE_FILE = "source.json"
"""raw_crawl/<crawl>/source.json: the source's table, resolved; extraction reads the format there."""

NOT_IDENTITY: tuple[str, ...] = ("description", "schedule", "delay_s", "concurrency", "timeout_s", "retry_wait_s")
"""Keys that do not decide what a crawl holds: changing one makes no crawl stale."""


class WebSource(SourceTable):
    """A site, crawled over HTTP inside the hosts of its start URLs."""

    kind: Literal["web"]
    start_urls: tuple[str, ...] = Field(min_length=1)
    path_prefixes: tuple[str, ...] = ()  # only paths that begin so; empty = the folders of the start URLs
    max_depth: int = Field(10, ge=0)  # links from a start URL; a redirect counts as one
    max_pages: int = Field(10_000, ge=1)  # requests, taken breadth first in order of (depth, URL)
    max_bytes_per_page: int = Field(5_000_000, ge=1)  # after decompression; text pages above it are data dumps
    max_total_bytes: int = Field(2_000_000_000, ge=1)  # stored payload
    delay_s: float = Field(1.0, ge=0)  # between two requests to a host; robots.txt Crawl-delay may raise it
    concurrency: int = Field(4, ge=1, le=32)  # requests in flight
    timeout_s: float = Field(60.0, gt=0)  # one request
    retries: int = Field(2, ge=0, le=10)  # after a time-out, a broken connection, 429 or 5xx
    retry_wait_s: float = Field(1.0, ge=0)  # before the first retry, then doubled; a Retry-After header may raise it
    sitemaps: bool = True  # read the sitemaps that robots.txt names, or /sitemap.xml
    sitemap_trust_days: int = Field(30, ge=0)
    """How long a sitemap is believed that a page has not changed, since the server was last asked for the page itself:
    a page's own headers may begin to forbid training. 0: every page is asked for, with its validators."""
    respect_robots: bool = True  # false only for a site of your own
    allow_private_hosts: bool = False  # true lets the crawler reach loopback, private and link-local addresses
    contact: str = ""  # URL or e-mail in the user agent: who runs this crawler

    @field_validator("start_urls")
    @classmethod
    def _http_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            _ = parts.port  # raises the ValueError that says what is wrong with it
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(
                    f"{without_userinfo(url)!r} is not an http or https URL; a variable may stand for its host, path or query"
                )
            refuse_credentials(url, sign_in=False)
        return urls

    @field_validator("path_prefixes")
    @classmethod
    def _absolute_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not prefix.startswith("/"):
                raise ValueError(f"{prefix!r} must begin with '/'")
        return prefixes

    @model_validator(mode="after")
    def _polite_in_public(self) -> WebSource:
        if self.allow_private_hosts:
            return self
        if not self.contact:
            raise ValueError(
                "contact is needed to crawl public hosts: webmasters must be able to reach whoever runs the crawler"
            )
        if self.delay_s < 0.1:
            raise ValueError(f"delay_s = {self.delay_s} is below 0.1 s, which no public host has agreed to")
        return self


class FilesSource(SourceTable):
    """Files of a folder on this machine: an installed distribution, the standard library, or a path."""

    kind: Literal["files"]
    root: str = Field(min_length=1)  # `package:NAME`, `stdlib:` or a path
    include: tuple[str, ...] = Field(min_length=1)  # globs below root, `**` allowed
    exclude: tuple[str, ...] = ()
    max_files: int = Field(100_000, ge=1)
    max_bytes_per_file: int = Field(1_000_000, ge=1)  # larger text files are generated or data
    max_bytes: int = Field(2_000_000_000, ge=1)  # of all files

    @field_validator("include", "exclude")
    @classmethod
    def _relative_globs(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        for glob in globs:
            if glob.startswith("/") or ".." in glob.split("/"):
                raise ValueError(f"{glob!r} must stay below root: relative, without '..'")
        return globs


AnySource = WebSource | FilesSource | AnyBulkSource


class SourceConfig(RootModel[Annotated[AnySource, Field(discriminator="kind")]]):
    """The recipe table `sources` of raw_crawl: the table of the partition's own source."""

    model_config = ConfigDict(frozen=True)


def write_source(folder: Path, source: AnySource) -> None:
    """Record the resolved source beside its captures, without the keys that are not identity."""
    text = source.model_dump_json(indent=1, exclude=set(NOT_IDENTITY))
    (folder / SOURCE_FILE).write_text(text + "\n", encoding="utf-8")


def declared_format(crawl: Segment) -> Declared:
    """How the payloads of a raw_crawl are to be read, by its source's table. No other key is looked at: so a new kind of
    source, or a key more of an old one, is not part of what extraction computes."""
    format: Declared = json.loads(crawl.path(SOURCE_FILE).read_text(encoding="utf-8"))["format"]
    return format
