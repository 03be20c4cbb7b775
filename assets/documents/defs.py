"""extracted_documents and filtered_documents: inputs, pipeline, one sorted table, report."""

from __future__ import annotations

from pydantic import BaseModel

from assets.build import Build, StageReport
from assets.documents.extraction import Extraction
from assets.documents.pipelines import extraction_pipeline, filtering_pipeline
from assets.documents.recipe import Filters
from assets.schemas import DOCUMENTS, FILTERED

RECIPES: dict[str, type[BaseModel]] = {"extraction": Extraction, "filters": Filters}


def extracted_documents(build: Build) -> StageReport:
    """Text of every added or changed capture, or the reason why there is none."""
    from assets.documents.blocks import CaptureReader
    from assets.documents.engine import merge_parts, run_pipeline
    from assets.documents.report import ExtractionTally
    from assets.documents.selection import select_captures
    from assets.sources.config import declared_format

    recipe = build.recipe("extraction", Extraction)
    crawl, delta = build.one("raw_crawl"), build.one("crawl_delta")
    selected, tasks = select_captures(crawl, delta, build.scratch, recipe.captures_per_task)
    parts = build.scratch / "parts"
    pipeline = extraction_pipeline(CaptureReader(selected, crawl), declared_format(crawl), parts, recipe)
    written = run_pipeline(pipeline, tasks, build.workers, build.scratch, parts, build.progress, build.executor)
    tally = ExtractionTally()
    merge_parts(written, build.output / "documents.parquet", DOCUMENTS, tally.see)
    return tally.report()


def filtered_documents(build: Build) -> StageReport:
    """Language, signals and decision of every extracted document."""
    from assets.documents.engine import merge_parts, run_pipeline
    from assets.documents.report import FilterTally
    from assets.documents.selection import row_groups

    recipe = build.recipe("filters", Filters)
    groups = row_groups(build.one("extracted_documents"))
    parts = build.scratch / "parts"
    pipeline = filtering_pipeline(groups, parts, recipe)
    written = run_pipeline(pipeline, len(groups), build.workers, build.scratch, parts, build.progress, build.executor)
    tally = FilterTally(recipe.keep_languages)
    merge_parts(written, build.output / "decisions.parquet", FILTERED, tally.see)
    return tally.report()
