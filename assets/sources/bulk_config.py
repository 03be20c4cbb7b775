"""Tables of the sources that are read in bulk: archives of crawls, dumps, data sets, documents of a company."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from assets.sources.source_table import SourceTable
from assets.sources.variables import refuse_credentials

Paths = Annotated[tuple[str, ...], Field(min_length=1)]
"""Files, folders, globs (`**` allowed), http(s):// URLs, or s3:// objects, prefixes and globs."""


class BulkSource(SourceTable):
    """Limits and access, the same for all kinds read in bulk."""

    format: Literal["auto", "html", "text", "code"] = "auto"
    max_records: int = Field(1_000_000_000, ge=1)  # records taken; the next one ends the reading as `page_limit`
    max_bytes_per_record: int = Field(10_000_000, ge=1)  # larger ones are dropped as `too_large`; bounds memory
    max_total_bytes: int = Field(2_000_000_000_000, ge=1)  # stored payload
    timeout_s: float = Field(60.0, gt=0)  # without any byte from a server
    retries: int = Field(
        5, ge=0, le=20
    )  # in a row, after 429, 5xx or a broken connection; reading resumes where it was
    retry_wait_s: float = Field(1.0, ge=0)  # before the first retry, then doubled; Retry-After may raise it
    allow_private_hosts: bool = False  # true lets http(s):// inputs lie on loopback, private and link-local addresses
    s3_endpoint: str = ""  # of an S3 server that is not AWS; keys come from the environment, never from here
    s3_anonymous: bool = False  # public buckets

    @field_validator(
        "paths", "base_url", "path_lists", "index_api", "cdxj", "columnar", "s3_endpoint", check_fields=False
    )
    @classmethod
    def _no_clear_credentials(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        for place in (value,) if isinstance(value, str) else value:
            refuse_credentials(place, sign_in=info.field_name != "s3_endpoint")
        return value


class DatasetColumns(BaseModel):
    """Which column (or JMESPath expression into nested ones) holds what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = "text"
    id: str = ""  # makes the row's URL, dataset:SOURCE/ID; without one, the hash of the text does
    url: str = ""  # an http(s) URL here becomes the record's URL, instead of the id
    title: str = ""
    licence: str = ""  # of the row; empty cells fall back to the source's
    language: str = ""
    time: str = ""  # ISO 8601, or seconds since 1970
    metadata: tuple[str, ...] = ()  # kept as JSON beside the capture


class DatasetSource(BulkSource):
    """Rows of JSON Lines, JSON, Parquet, CSV, text files or a Hugging Face data set, one document each."""

    kind: Literal["dataset"]
    paths: Paths
    layout: Literal["auto", "jsonl", "json", "parquet", "csv", "tsv", "text", "lines", "huggingface"] = "auto"
    """auto: by the file's name; text: a document per file; lines: one per line; huggingface: a saved data set, a
    folder that `datasets.load_dataset` reads, or the name of one on the hub."""
    columns: DatasetColumns = DatasetColumns()
    content: Literal["text", "html", "markdown", "wikitext", "code"] = "text"  # what the text column holds
    json_items: str = "item"  # ijson prefix of the rows inside a .json file: `item` = a top-level list
    encoding: str = ""  # of text files; empty = UTF-8, or else guessed
    huggingface_config: str = ""
    huggingface_split: str = "train"


class WikipediaSource(BulkSource):
    """A MediaWiki XML dump: pages-articles, multistream or not, compressed or not."""

    kind: Literal["wikipedia"]
    paths: Paths
    language: str = Field(pattern=r"[a-z][a-z-]*")  # of the wiki: zh, en, ...
    namespaces: tuple[int, ...] = Field((0,), min_length=1)  # 0 = articles
    variant: Literal["", "zh-hans", "zh-hant"] = ""  # which side of -{zh-hans:..;zh-hant:..}- is read; zh: zh-hans

    @model_validator(mode="after")
    def _variant_of_chinese(self) -> WikipediaSource:
        if self.variant and not self.language.startswith("zh"):
            raise ValueError(f"variant {self.variant!r} is of Chinese wikis only, language is {self.language!r}")
        return self


class WarcSource(BulkSource):
    """WARC files that others have made."""

    kind: Literal["warc"]
    paths: Paths
    record_types: tuple[Literal["response", "resource", "conversion"], ...] = Field(
        ("response", "resource", "conversion"), min_length=1
    )


class CommonCrawlSource(BulkSource):
    """Common Crawl: whole WARC or WET files by path list, or single records by one of its three indexes."""

    kind: Literal["common_crawl"]
    base_url: str = "https://data.commoncrawl.org/"  # or s3://commoncrawl/, or a folder; paths are relative to it
    path_lists: tuple[str, ...] = ()  # warc.paths.gz, wet.paths.gz: a path per line
    max_files: int = Field(1_000_000, ge=1)  # of the path lists, in their order
    index_api: str = ""  # a CDX server: https://index.commoncrawl.org/CC-MAIN-2026-30-index
    cdxj: tuple[str, ...] = ()  # index files: cdx-00000.gz
    columnar: tuple[str, ...] = ()  # Parquet files of the columnar index, subset=warc
    urls: tuple[str, ...] = ()  # of the indexes: host/path exactly, host/path/*, or *.host
    filters: tuple[str, ...] = ()  # of index_api and cdxj: [!][=|~]field:expression, as CDX servers write them
    where: dict[str, str | int] = Field(default_factory=dict)  # of columnar: column = value

    @model_validator(mode="after")
    def _one_way_in(self) -> CommonCrawlSource:
        given = [name for name in ("path_lists", "index_api", "cdxj", "columnar") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"exactly one of path_lists, index_api, cdxj, columnar is needed, found {given or 'none'}")
        if given == ["path_lists"] and (self.urls or self.filters or self.where):
            raise ValueError("urls, filters and where choose from an index; path_lists read whole files")
        if given != ["path_lists"] and not (self.urls or self.where):
            raise ValueError("an index needs urls (or where, for columnar): which pages of the whole web are wanted?")
        if self.where and given != ["columnar"]:
            raise ValueError("where is of columnar; index_api and cdxj have filters")
        if self.filters and given == ["columnar"]:
            raise ValueError("filters are of index_api and cdxj; columnar has where")
        return self


class JsonExport(BaseModel):
    """How to find documents in JSON exports (Slack, Confluence, ...): JMESPath expressions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: str = "@"  # list of documents in a file; `@` = the file itself
    text: str = "text"  # inside an item
    id: str = ""  # makes its URL; without one, its position in the file does
    title: str = ""
    time: str = ""
    html: bool = False  # the text is HTML


class DocumentsSource(BulkSource):
    """Documents of a company: Markdown, HTML, PDF, DOCX, mail, text, JSON exports; in folders, buckets or archives."""

    kind: Literal["documents"]
    paths: Paths
    include: tuple[str, ...] = Field(("**",), min_length=1)  # globs on names below a path or inside an archive
    exclude: tuple[str, ...] = ()
    json_export: JsonExport | None = None  # None: JSON files are not read
    attachments: bool = True  # of mail: each becomes a document of its own
    max_archive_ratio: float = Field(200.0, gt=1)  # unpacked / packed size of a member above 1 MB; more is a bomb

    @field_validator("include", "exclude")
    @classmethod
    def _relative_globs(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        for glob in globs:
            if glob.startswith("/") or ".." in glob.split("/"):
                raise ValueError(f"{glob!r} must stay below its path: relative, without '..'")
        return globs


AnyBulkSource = CommonCrawlSource | WikipediaSource | DatasetSource | DocumentsSource | WarcSource
"""Every kind that is read in bulk; `kind` tells them apart."""
