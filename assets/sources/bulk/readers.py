"""Sources that are read in bulk: one reader per kind, all into the same sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.build import Progress, Segment
from assets.sources.bulk.records import RecordSink
from assets.sources.bulk_config import (
    BulkSource,
    CommonCrawlSource,
    DatasetSource,
    DocumentsSource,
    WarcSource,
    WikipediaSource,
)
from assets.sources.known_payloads import KnownPayloads
from assets.sources.streams.inputs import Inputs
from assets.sources.variables import Variables


def capture_bulk(
    source: BulkSource,
    name: str,
    crawl: str,
    output: Path,
    scratch: Path,
    progress: Progress,
    variables: Variables,
    previous: Segment | None = None,
) -> dict[str, Any]:
    """Read one source into `output`, without the payloads that its `previous` crawl holds; returns numbers of the execution."""
    inputs = Inputs(source, name, scratch, variables)
    known = KnownPayloads.of(previous)
    with RecordSink(source, crawl, output, scratch, progress, known, variables) as sink:
        _read(source, name, inputs, sink)
    return sink.finish()


def _read(source: BulkSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    if isinstance(source, DatasetSource):
        from assets.sources.bulk.dataset import read_dataset

        read_dataset(source, name, inputs, sink)
    elif isinstance(source, WikipediaSource):
        from assets.sources.bulk.wikipedia import read_wikipedia

        read_wikipedia(source, name, inputs, sink)
    elif isinstance(source, WarcSource):
        from assets.sources.bulk.warc_import import read_warc_files

        read_warc_files(source, name, inputs, sink)
    elif isinstance(source, CommonCrawlSource):
        from assets.sources.bulk.common_crawl import read_common_crawl

        read_common_crawl(source, name, inputs, sink)
    elif isinstance(source, DocumentsSource):
        from assets.sources.bulk.company_documents import read_documents

        read_documents(source, name, inputs, sink)
    else:
        raise TypeError(f"no reader for {type(source).__name__}")
