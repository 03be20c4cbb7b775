"""What a thousand small crawls cost to read, against one crawl with the same rows.

    python -m benchmarks.bench_many_segments [--crawls 1000] [--rows 25] [--folder DIR]

Two stores with the same documents: one crawl each night for `crawls` nights, and all of it in one crawl. Files
are hashed before use, as builds do. Each reading runs in a process of its own, as a build does, and is measured in CPU
seconds (this process and its threads), the best of three. Readings of 20 ms are a ratio of noise on a busy machine.
Writes docs/results/many_segments.json; exits non-zero where a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.build import SilentProgress
from assets.schemas import CRAWL_DELTA, DOCUMENTS, FILTERED, SIGNATURES
from assets.tables import write_table
from benchmarks.results import Goal, Result, finish, why
from orchestration.identity.catalog import Catalog, read_catalog, segment
from orchestration.identity.digest import MANIFEST
from orchestration.stages import BY_NAME
from orchestration.store import open_store
from orchestration.upkeep.compaction import Packs, compact

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    *(
        "orchestration/identity/catalog.py",
        "orchestration/upkeep/compaction.py",
        "orchestration/identity/status.py",
        "orchestration/store",
    ),
    *("assets/packs.py", "assets/dedup/inputs.py", "assets/dedup/live.py", "assets/tokenizer/texts.py"),
    "benchmarks/bench_many_segments.py",
)
GOAL_RATIO = 1.5
GOAL_CATALOG_S = 1.0  # for 1,000 crawls, once per process
GOAL_WALK_S = 2.0  # for 1,000 crawls
DOCUMENT_CHARACTERS = 2500
REPEATS = 3
FIRST_NIGHT = datetime(2024, 1, 1, tzinfo=UTC)
SHINGLES = 300
TABLES = {
    "crawl_delta": ("delta", CRAWL_DELTA),
    "extracted_documents": ("documents", DOCUMENTS),
    "filtered_documents": ("decisions", FILTERED),
    "document_signatures": ("signatures", SIGNATURES),
}


def main() -> int:
    """Make both stores, read both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crawls", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=25, help="documents of a night")
    parser.add_argument("--folder", type=Path, help="where to make the stores (default: the temporary folder)")
    parser.add_argument("--read", nargs=2, metavar=("STORE", "WHAT"), help="one reading (used by the benchmark)")
    options = parser.parse_args()
    if options.read:
        return _read(Path(options.read[0]), options.read[1])
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_store(folder / "many", options.crawls, options.rows)
        make_store(folder / "one", 1, options.crawls * options.rows)
        before = [measure(what, folder, options.crawls) for what in READINGS if what not in SECONDS]
        started = time.process_time()
        store = open_store(str(folder / "many" / "store.git"))
        compact(store, read_catalog(store), folder / "many", SilentProgress())
        compaction_s = round(time.process_time() - started, 3)
        rows = [measure(what, folder, options.crawls) for what in READINGS]
    print(f"before compaction, which took {compaction_s} s:")
    for row in before:
        print(f"{row['reading']:<44} {row['many_s']:8.3f} s {row['one_s']:8.3f} s   ratio {row['ratio']:6.2f}")
    print("after:")
    for row in rows:
        print(f"{row['reading']:<44} {row['many_s']:8.3f} s {row['one_s']:8.3f} s   ratio {row['ratio']:6.2f}")
    figures = {"crawls": options.crawls, "documents_each": options.rows, "before": before, "compaction_s": compaction_s}
    return finish(result_of(rows, figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was measured."""
    crawls, each = figures["crawls"], figures["documents_each"]
    goals = []
    for row in rows:
        if limit := SECONDS.get(row["reading"]):
            goals.append(
                Goal(f"seconds for {row['reading']}, {crawls} crawls", row["many_s"], "<=", limit, ("many_s",))
            )
            continue
        name = f"{row['reading']}: {crawls} crawls of {each} / one crawl of as many"
        goals.append(
            Goal(name, row["ratio"], "<=", GOAL_RATIO, ("many_s", "one_s", "ratio"), MISSED.get(row["reading"], ()))
        )
    not_judged = (
        why("size of the input", "crawls", "documents_each")
        | why("what compaction is there to mend", "before")
        | why("once per 1,000 crawls, while nothing waits; no limit was asked for", "compaction_s")
    )
    return Result("many_segments", CODE, goals, rows, figures, not_judged)


def measure(what: str, folder: Path, crawls: int) -> dict[str, Any]:
    """Both stores, the best of REPEATS, in CPU seconds."""
    best = {}
    for store in ("many", "one"):
        runs = []
        for _ in range(REPEATS):
            command = [sys.executable, "-m", "benchmarks.bench_many_segments", "--read", str(folder / store), what]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        if len({(run["rows"], run["bytes"]) for run in runs}) != 1:
            raise SystemExit(f"{what}: readings of the same store differ: {runs}")
        best[store] = min(runs, key=lambda run: run["cpu_s"])
    if what not in SECONDS and (best["many"]["rows"], best["many"]["bytes"]) != (
        best["one"]["rows"],
        best["one"]["bytes"],
    ):
        raise SystemExit(f"{what}: the two stores do not hold the same: {best}")
    many, one = best["many"]["cpu_s"], best["one"]["cpu_s"]
    return {"reading": what, "many_s": many, "one_s": one, "ratio": round(many / one, 2)}


# --- the readings, each on a catalog


def _catalog(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    yield len(catalog.manifests), 0


def _walk(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    """What `headwater status` and every build do before anything else."""
    from orchestration.config import load_config
    from orchestration.identity.status import walk

    yield len(walk(catalog, load_config(ROOT / "config")).items), 0


def _segments(catalog: Catalog, store: Any, asset: str) -> list[Any]:
    packs = Packs(store.folder.parent, store)
    found = [catalog.manifests[asset, key] for key in catalog.keys(asset)]
    return [segment(store, catalog.commit, each, verified=True, packed=packs.of(each)) for each in found]


def _decisions(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    """What corpus reads of filtered_documents, when it is built from scratch."""
    from assets.dedup.corpus import FILTERED_COLUMNS
    from assets.dedup.inputs import read_all

    table = read_all(_segments(catalog, store, "filtered_documents"), "decisions", FILTERED_COLUMNS, FILTERED)
    yield len(table), sum(table["characters"].to_pylist())


def _documents(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    """What corpus reads of extracted_documents: all columns but text and title."""
    from assets.dedup.corpus import EXTRACTED_COLUMNS
    from assets.dedup.inputs import read_all

    table = read_all(_segments(catalog, store, "extracted_documents"), "documents", EXTRACTED_COLUMNS, DOCUMENTS)
    yield len(table), len(set(table["url"].to_pylist()))


def _texts(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    """What token_shards and the tokenizer's sample read: every text."""
    from assets.tokenizer.texts import group_by_crawl, read_texts

    segments = _segments(catalog, store, "extracted_documents")
    ids = _where(segments, "documents", DOCUMENTS)
    for _, _, text in read_texts(segments, group_by_crawl(ids["doc_id"].to_pylist(), ids["crawl"].to_pylist())):
        yield 1, len(text)


def _signatures(catalog: Catalog, store: Any) -> Iterator[tuple[int, int]]:
    """What duplicate_clusters reads when it is built from scratch: every signature."""
    from assets.dedup.live import signature_reader

    segments = _segments(catalog, store, "document_signatures")
    documents = _where(_segments(catalog, store, "extracted_documents"), "documents", DOCUMENTS)
    for batch in signature_reader(segments, documents)(["doc_id", "signature", "shingle_count"]):
        yield batch.num_rows, sum(batch.column("shingle_count").to_pylist())


def _where(segments: list[Any], table: str, schema: pa.Schema) -> pa.Table:
    """Which crawl holds which document: what the corpus says to those who read texts and signatures."""
    from assets.dedup.inputs import read_all

    return read_all(segments, table, ["doc_id", "crawl"], schema)


CATALOG, WALK = "catalog: every manifest", "status: every partition"
SECONDS = {CATALOG: GOAL_CATALOG_S, WALK: GOAL_WALK_S}
"""Readings whose answer grows with the number of crawls: the goal is in seconds."""
MISSED = {"decisions of every document": ("1.51 at 8d2829939c4f",)}
READINGS: dict[str, Callable[[Catalog, Any], Iterator[tuple[int, int]]]] = {
    CATALOG: _catalog,
    WALK: _walk,
    "decisions of every document": _decisions,
    "metadata of every document": _documents,
    "text of every document": _texts,
    "signature of every document": _signatures,
}


def _read(folder: Path, what: str) -> int:
    """One reading in this process. The catalog is part of it only when it is what is measured."""
    store = open_store(str(folder / "store.git"))
    _catalog_of_one = read_catalog(store, "main") if what != CATALOG else None
    started = time.process_time()
    catalog = _catalog_of_one or read_catalog(store, "main")
    rows = total = 0
    for count, size in READINGS[what](catalog, store):
        rows, total = rows + count, total + size
    print(json.dumps({"rows": rows, "bytes": total, "cpu_s": round(time.process_time() - started, 4)}))
    return 0


# --- the two stores


def make_store(folder: Path, crawls: int, rows: int) -> None:
    """A store with `crawls` partitions of `rows` documents in each table, in one commit."""
    text = "".join(path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-m]*.py")))
    store = open_store(str(folder / "store.git"))
    put: dict[str, Path | bytes] = {}
    for number in range(crawls):
        partition = f"web@{FIRST_NIGHT + timedelta(days=number):%Y%m%dT%H%M%SZ}"
        raw = f"sources/raw_crawl/{partition}/{MANIFEST}"
        put[raw] = json.dumps(_manifest("raw_crawl", partition, {}, rows), indent=1).encode()
        documents = [_document(n, partition, text) for n in range(number * rows, (number + 1) * rows)]
        for asset, (table, schema) in TABLES.items():
            here = folder / "files" / asset / partition
            columns = sorted(documents, key=lambda row: row["doc_id"])
            path = write_table(here, table, pa.Table.from_pylist(columns, schema=schema), schema)
            prefix = f"{BY_NAME[asset].group}/{asset}/{partition}/"
            put[prefix + path.name] = path
            put[prefix + MANIFEST] = json.dumps(
                _manifest(asset, partition, {path.name: path.stat().st_size}, rows), indent=1
            ).encode()
    store.commit("main", put, message="all crawls")


def _document(number: int, partition: str, text: str) -> dict[str, Any]:
    """One row with the columns of all four tables; a function of its number, but for the crawl."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    at = int(sha256[:8], 16) % (len(text) - DOCUMENT_CHARACTERS)
    signals = {f"signal_{n}": round(int(sha256[n : n + 4], 16) / 65536, 6) for n in range(20)}
    hashes = (np.frombuffer(hashlib.shake_128(sha256.encode()).digest(8 * SHINGLES), "<u8") >> 4).tolist()
    return {
        "doc_id": sha256[:32],
        "url": f"https://web.example/section-{number % 97}/page-{number}.html",
        "source": "web",
        "crawl": partition,
        "licence": "CC0-1.0",
        "content_sha256": sha256,
        "domain": "documentation",
        "format": "html",
        "title": f"Page {number}",
        "text": text[at : at + DOCUMENT_CHARACTERS],
        "language": "en",
        "language_score": 0.99,
        "script": "Latn",
        "quality": signals["signal_1"],
        "characters": DOCUMENT_CHARACTERS,
        "utf8_bytes": DOCUMENT_CHARACTERS,
        "signals": sorted(signals.items()),
        "change": "added",
        "rule": "new_url",
        "missed_crawls": 0,
        "text_sha256": sha256,
        "shingles_sha256": sha256,
        "shingle_count": SHINGLES,
        "shingles": sorted(hashes),
        "signature": [value & 0xFFFFFFFF for value in hashes[:108]],
    }


def _manifest(asset: str, partition: str, files: dict[str, int], rows: int) -> dict[str, Any]:
    """As large as a real one: 6 KB, most of it the hashes of modules and libraries."""
    filler = {f"assets.module_{n}": hashlib.sha256(str(n).encode()).hexdigest()[:16] for n in range(60)}
    return {
        "format": 1,
        "asset": asset,
        "partition": partition,
        "version": hashlib.sha256(f"{asset}{partition}".encode()).hexdigest(),
        "files": files,
        "bytes": sum(files.values()),
        "rows": {file.removesuffix(".parquet"): rows for file in files},
        "identity": {
            "modules": filler,
            "libraries": filler,
            "inputs": {},
            "config": {},
            "code": "0" * 16,
            "recipes": {},
        },
        "report": {"stats": filler},
    }


if __name__ == "__main__":
    sys.exit(main())
