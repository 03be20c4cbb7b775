"""A publication as Dagster metadata: what a person sees after clicking an asset."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from assets.build import Sample, StageReport
from orchestration.graph.column_docs import EVERYWHERE, column_comments
from orchestration.identity.catalog import Catalog, prefix
from orchestration.identity.digest import REPORT, table_name
from orchestration.identity.status import Item
from orchestration.publish import report_json
from orchestration.publish.publisher import Publication
from orchestration.stages import BY_NAME
from orchestration.store.contract import VersionedStore

SAMPLE_ROWS = 12
DESCRIPTION_PLOTS = 2
CELL_CHARACTERS = 160
SHOWN_CAUSES = 5
_SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


def materialization_metadata(publication: Publication, store: VersionedStore) -> dict[str, Any]:
    """Counts, drop reasons, plots, samples, schema, place and input versions."""
    manifest, report = publication.manifest, publication.report
    metadata: dict[str, Any] = {}
    of = f" [{manifest['partition']}]" if manifest["partition"] else ""
    if of:
        metadata["partition"] = manifest["partition"]
    if report.documents_in is not None:
        metadata["documents in"] = report.documents_in
        metadata["documents kept"] = report.documents_kept
    if report.dropped:
        metadata["dropped by reason"] = dg.MetadataValue.md(_dropped_table(report))
    metadata |= _pages(publication, store)
    if report.tokens_out is not None:
        metadata["tokens"] = report.tokens_out
    for title, png in report.plots.items():
        metadata[title + of] = dg.MetadataValue.md(_picture(title + of, png))
    for sample in report.samples:
        metadata[f"sample: {sample.title}{of}"] = sample_table(sample) if sample.rows else "none"
    metadata["statistics"] = dg.MetadataValue.json(report.stats)
    metadata["inputs"] = dg.MetadataValue.md(_inputs_table(manifest["identity"]["inputs"]))
    stage = BY_NAME[manifest["asset"]]
    metadata["store path"] = f"main:{prefix(stage, manifest['partition'])}"
    metadata["store commit"] = publication.commit
    metadata["fingerprint"] = manifest["fingerprint"][:16]
    metadata["size"] = dg.MetadataValue.int(manifest["bytes"])
    metadata["bytes added"] = dg.MetadataValue.int(manifest["bytes_added"])
    metadata["build seconds"] = manifest["duration_s"]
    if manifest.get("accepted_yields"):
        metadata["accepted yields"] = dg.MetadataValue.md(
            "\n".join(f"- {each}" for each in manifest["accepted_yields"])
        )
    if manifest.get("built_on_stale_input"):
        metadata["built on stale input"] = dg.MetadataValue.md(
            "\n".join(f"- {p}" for p in manifest["built_on_stale_input"])
        )
    metadata.update(_schema_metadata(publication, store))
    return metadata


def _pages(publication: Publication, store: VersionedStore) -> dict[str, Any]:
    """Files that are pages for people, such as the release card: to be read where one looks."""
    manifest = publication.manifest
    folder = prefix(BY_NAME[manifest["asset"]], manifest["partition"])
    names = [name for name in manifest["files"] if name.endswith(".md") and "/" not in name]
    return {name: dg.MetadataValue.md(store.read_bytes(publication.commit, folder + name).decode()) for name in names}


def _dropped_table(report: StageReport) -> str:
    lines = ["| reason | documents | share |", "|---|---:|---:|"]
    total = report.documents_in or 1
    for reason, count in sorted(report.dropped.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"| {reason} | {count:,} | {count / total:.1%} |")
    return "\n".join(lines)


def sample_table(sample: Sample) -> dg.TableMetadataValue:
    """The first rows of a sample; white space that is the whole of a cell is made visible."""
    records = [
        dg.TableRecord({column: _cell(cell) for column, cell in zip(sample.columns, row, strict=True)})
        for row in sample.rows[:SAMPLE_ROWS]
    ]
    columns = [dg.TableColumn(c, type="string", description=EVERYWHERE.get(c)) for c in sample.columns]
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns=columns))


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
    text = " ".join(text.split()) or text.translate(_SPACES)  # a token of spaces only is not an empty cell
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def state_when_loaded(items: Sequence[Item]) -> str:
    """Markdown with what `headwater status` said of an asset, and what Dagster's own mark of staleness cannot know."""
    counts = Counter(item.state for item in items)
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing published"
    due = [item for item in items if item.state in ("stale", "missing")]
    causes = [f"- `{item.partition or item.asset}`: {item.state}, {'; '.join(item.causes)}" for item in due]
    more = [f"- and {len(causes) - SHOWN_CAUSES} more"] if len(causes) > SHOWN_CAUSES else []
    return "\n".join(
        [
            f"**State when these definitions were loaded: {said}.** `headwater status` says it as of now.",
            "",
            *causes[:SHOWN_CAUSES],
            *more,
            "",
            "The UI's mark `Unsynced` is Dagster's: it compares data and code versions, and knows neither recipes nor "
            "inputs that are frozen or pinned. Schedules and sensors go by `headwater status`.",
        ]
    )


def latest_pictures(asset: str, store: VersionedStore, catalog: Catalog) -> str:
    """Markdown with the plots of the asset's newest run, or largest crawl: those of a description show at once."""
    manifests = [m for (name, _), m in catalog.manifests.items() if name == asset]
    if not manifests:
        return ""
    by_size = BY_NAME[asset].partition == "crawl"
    shown = max(manifests, key=lambda m: (m["bytes"] if by_size else 0, m["created_at"]))
    path = prefix(BY_NAME[asset], shown["partition"]) + REPORT
    plots = report_json.decode(json.loads(store.read_bytes(catalog.commit, path))).plots
    if not plots:
        return ""
    where = f"`{shown['partition']}`, " if shown["partition"] else ""
    which = "the largest partition" if by_size else "the newest version"
    lines = [
        f"Plots of {which} when these definitions were loaded: {where}published {shown['created_at'][:16].replace('T', ' ')} UTC"
    ]
    lines += [f"**{title}**\n\n{_picture(title, png)}" for title, png in list(plots.items())[:DESCRIPTION_PLOTS]]
    return "\n\n".join(lines)


def _picture(title: str, png: bytes) -> str:
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _inputs_table(inputs: Mapping[str, Mapping[str, str]]) -> str:
    if not inputs:
        return "none of this version (sources, frozen or pinned inputs)"
    lines = ["| upstream | partition | data version |", "|---|---|---|"]
    for asset, versions in inputs.items():
        for partition, version in list(versions.items())[:20]:
            lines.append(f"| [{asset}](/assets/{asset}) | {partition} | `{version[:12]}` |")
        if len(versions) > 20:
            lines.append(f"| {asset} | {len(versions) - 20} more | |")
    return "\n".join(lines)


def main_file(asset: str, files: Sequence[str]) -> str:
    """The file of the table that the asset is named after (base_checkpoints: checkpoints), else the first."""
    return min(files, key=lambda name: (table_name(name) not in asset, name))


def _schema_metadata(publication: Publication, store: VersionedStore) -> dict[str, Any]:
    """Column schema and row count of the table that the asset is named after, else of its first."""
    manifest = publication.manifest
    files = [name for name in manifest["files"] if name.endswith(".parquet")]
    if not files:
        return {}
    first = main_file(manifest["asset"], files)
    stage = BY_NAME[manifest["asset"]]
    path = store.local_path(publication.commit, prefix(stage, manifest["partition"]) + first)
    schema = pq.ParquetFile(path).schema_arrow
    comments = next((c for c in column_comments().values() if list(c) == schema.names), {})
    columns = [dg.TableColumn(f.name, type=str(f.type), description=comments.get(f.name) or None) for f in schema]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/row_count": manifest["rows"].get(table_name(first), 0),
        "row count and columns are of": f"{prefix(stage, manifest['partition'])}{table_name(first)}",
    }
