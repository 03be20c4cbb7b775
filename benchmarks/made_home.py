"""A home of many nights for benchmarks of commands: manifests and names of files as of a real one, tables only where a
command reads one. Every identity is what the code says now, so all of it is fresh and there is nothing to do."""

from __future__ import annotations

import hashlib
import html
import json
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets import schemas
from assets.tables import write_table
from assets.tokenizer.training import TokenizerRecipe, train
from orchestration.config import Config, load_config
from orchestration.identity.catalog import MANIFEST_FORMAT, Catalog, prefix
from orchestration.identity.digest import DIGESTS, MANIFEST, REPORT
from orchestration.identity.fingerprint import identity
from orchestration.identity.status import current_inputs
from orchestration.process.workplace import Workplace
from orchestration.stages import STAGES, Stage
from orchestration.store import open_store
from quality.asset_checks import NamedOutcome, check_specs
from quality.outcome import CheckOutcome

ROOT = Path(__file__).resolve().parents[1]
SOURCE, RECIPE = "web", "demo"
FIRST_NIGHT = datetime(2019, 1, 1, tzinfo=UTC)
DOCUMENTS_OF_A_NIGHT = 25
TABLES: dict[str, tuple[tuple[str, pa.Schema], ...]] = {
    "lineage_index": (
        ("documents", schemas.LINEAGE_DOCUMENTS),
        ("uses", schemas.LINEAGE_USES),
        ("checkpoints", schemas.LINEAGE_CHECKPOINTS),
    ),
    "perplexity": (("perplexity", schemas.PERPLEXITY),),
    "probability_probes": (("probes", schemas.PROBES),),
    "needle_in_haystack": (("needles", schemas.NEEDLES),),
}
NAMES = {
    "raw_crawl": ("captures.parquet", "crawl-00000.warc.gz", "source.json"),
    "crawl_delta": ("delta.parquet", "live-00000.parquet"),
    "extracted_documents": ("documents.parquet",),
    "filtered_documents": ("decisions.parquet",),
    "document_signatures": ("signatures-00000.parquet",),
}
"""What a crawl of each stage is made of: in a made home the content is that of nothing."""


def environment(folder: Path) -> dict[str, str]:
    """Of a command that is to work in such a home."""
    kept = {key: value for key, value in os.environ.items() if key not in ("DAGSTER_HOME", "HEADWATER_STORE")}
    return kept | {"HEADWATER_HOME": str(folder / "home"), "HEADWATER_CONFIG": str(folder / "config")}


def make_home(folder: Path, nights: int) -> dict[str, Any]:
    """One source with so many crawls, everything downstream of them, and one run, in one commit."""
    write_config(folder)
    config = load_config(folder / "config")
    home = folder / "home"
    store = open_store(str(home / "store.git"))
    crawls = [f"{SOURCE}@{FIRST_NIGHT + timedelta(days=number):%Y%m%dT%H%M%SZ}" for number in range(nights)]
    run = f"{RECIPE}@{FIRST_NIGHT + timedelta(days=nights):%Y%m%dT%H%M%SZ}"
    catalog = Catalog("made")
    put: dict[str, Path | bytes] = {}
    keys: dict[str | None, list[str | None]] = {"crawl": [*crawls], "run": [run], None: [None]}
    for stage in STAGES:
        files = _files(folder / "files", stage, nights)
        for key in keys[stage.partition]:
            manifest = _manifest(stage, key, config, catalog, crawls, files)
            catalog.manifests[stage.name, key] = manifest
            here = prefix(stage, key)
            names = [*files, DIGESTS, REPORT]
            put |= {
                here + name: files.get(name) or (here + name).encode() for name in names
            }  # each an object of its own
            put[here + MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    store.commit("main", put, message=f"{nights} nights")
    shutil.rmtree(folder / "files")
    workplace = Workplace(home)
    os.environ.pop("DAGSTER_HOME", None)
    workplace.instance.add_dynamic_partitions("crawl", crawls)
    workplace.instance.add_dynamic_partitions("run", [run])
    return {"crawls": nights}


def write_config(folder: Path) -> None:
    """The project's configuration with one source."""
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "config" / "sources.toml").unlink()
    add_source(folder, SOURCE, [])


def add_source(folder: Path, name: str, pages: Sequence[str]) -> None:
    """One more source: the files of a folder."""
    root = folder / "pages" / name
    root.mkdir(parents=True)
    for number, page in enumerate(pages):
        (root / f"{number}.txt").write_text(page, encoding="utf-8")
    with (folder / "config" / "sources.toml").open("a", encoding="utf-8") as file:
        file.write(
            f'[{name}]\nkind = "files"\nlicence = "CC0-1.0"\ndomain = "documentation"\nformat = "text"\n'
            f'root = "{root}"\ninclude = ["*"]\n\n'
        )


def add_document(folder: Path) -> tuple[Path, Path]:
    """One document as a page and as JSONL, for `headwater stage`."""
    page, text = folder / "page" / "page.html", folder / "text" / "text.jsonl"
    paragraphs = Path(statistics.__file__).read_text(encoding="utf-8").split("\n\n")[1:9]
    for path in (page, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    page.write_text(f"<html><body><article><h1>Statistics</h1>{body}</article></body></html>", encoding="utf-8")
    text.write_text(json.dumps({"id": "one", "text": "\n".join(paragraphs)}) + "\n", encoding="utf-8")
    return page, text


def _files(folder: Path, stage: Stage, nights: int) -> dict[str, Path | bytes]:
    found = [
        write_table(folder / stage.name, table, _documents(nights) if table == "documents" else [], schema)
        for table, schema in TABLES.get(stage.name, ())
    ]
    if stage.name == "tokenizer":
        trained = train([Path(statistics.__file__).read_text(encoding="utf-8")], TokenizerRecipe.model_validate({}))
        found.append(folder / stage.name / "tokenizer.json")
        found[0].parent.mkdir(parents=True)
        found[0].write_text(trained.tokenizer_json, encoding="utf-8")
    return {path.name: path for path in found} | dict.fromkeys(NAMES.get(stage.name, ()), b"")


def _documents(nights: int) -> list[dict[str, Any]]:
    known = dict.fromkeys(schemas.LINEAGE_DOCUMENTS.names) | {"source": SOURCE, "live": True}
    count = nights * DOCUMENTS_OF_A_NIGHT
    rows = [known | {"doc_id": f"{number:032x}", "url": url_of(number)} for number in range(count)]
    return sorted(rows, key=lambda row: row["url"])


def url_of(number: int) -> str:
    """URL of a made document."""
    return f"https://web.example/section-{number % 97}/page-{number}.html"


def _manifest(
    stage: Stage,
    key: str | None,
    config: Config,
    catalog: Catalog,
    crawls: list[str],
    files: Mapping[str, Path | bytes],
) -> dict[str, Any]:
    wanted = identity(stage, key, config, current_inputs(stage, key, catalog, crawls))
    sizes = {name: file.stat().st_size if isinstance(file, Path) else len(file) for name, file in files.items()}
    checks = [NamedOutcome(c.name, c.blocking, CheckOutcome(True, c.description, {})) for c in check_specs(stage.name)]
    documents = DOCUMENTS_OF_A_NIGHT * (1 if stage.partition == "crawl" else len(crawls))
    report = {"documents_in": documents, "documents_kept": documents, "dropped": {}, "stats": {}}
    return {
        "format": MANIFEST_FORMAT,
        "asset": stage.name,
        "partition": key,
        "version": hashlib.sha256(f"{stage.name}{key}".encode()).hexdigest(),
        "fingerprint": wanted.fingerprint,
        "identity": wanted.as_json(),
        "pin": None,
        "report": report | {"tokens_in": None, "tokens_out": None},
        "rows": {name.removesuffix(".parquet"): documents for name in sizes},
        "bytes": sum(sizes.values()),
        "bytes_added": sum(sizes.values()),
        "files": sizes,
        "extends": None,
        "created_at": FIRST_NIGHT.isoformat(timespec="seconds"),
        "duration_s": 1.0,
        "checks": [check.as_json() for check in checks],
    }
