"""From the raw site to an evaluated checkpoint and back to the page, by the commands a person types."""

from __future__ import annotations

import time

import duckdb
import pyarrow.parquet as pq

from orchestration.identity.catalog import read_catalog, segment
from orchestration.stages import STAGES
from orchestration.store import open_store
from tests.end_to_end.harness import STAMP, Home
from tests.shared_build import Built

RUN = f"tiny@{STAMP}"
SITE = f"site@{STAMP}"


def table(home: Home, asset: str, name: str, partition: str | None = None) -> list[dict[str, object]]:
    store = open_store(home.state / "store.git")
    catalog = read_catalog(store)
    manifest = catalog.get(asset, partition)
    assert manifest is not None
    return segment(store, catalog.commit, manifest).table(name).to_pylist()


def test_every_asset_is_made_and_fresh(built: Built) -> None:
    assert {row["asset"] for row in built.summary["assets"]} == {stage.name for stage in STAGES}
    assert set(built.home.states().values()) == {"fresh"}


def test_a_second_run_does_nothing_and_says_so_quickly(built: Built) -> None:
    before = built.home.versions()
    started = time.monotonic()
    result = built.home.headwater("run", "--recipe", "tiny")
    assert "nothing to do" in result.stdout
    assert time.monotonic() - started < 15
    assert built.home.versions() == before


def test_no_stage_loses_a_document(built: Built) -> None:
    counted = [row for row in built.summary["assets"] if row["documents_in"] is not None]
    assert len(counted) >= 6
    for row in counted:
        assert row["documents_in"] == row["documents_kept"] + sum(row["dropped"].values()), row


def test_other_languages_and_copies_are_dropped_with_their_reason(built: Built) -> None:
    filtered = {row["url"]: row for row in table(built.home, "filtered_documents", "decisions", SITE)}
    french = [row for url, row in filtered.items() if "/fr/" in url]
    assert len(french) == 4
    assert {row["drop_reason"] for row in french} == {"language_not_wanted"}
    duplicates = [row for row in table(built.home, "duplicate_clusters", "decisions") if not row["kept"]]
    urls = {row["doc_id"]: url for url, row in filtered.items()}
    pair = {urls[duplicates[0]["doc_id"]].rsplit("/", 1)[1], urls[duplicates[0]["matched_doc_id"]].rsplit("/", 1)[1]}
    assert pair == {"copy.html", "page-000.html"}


def test_lineage_answers_for_a_url_a_step_and_a_checkpoint(built: Built) -> None:
    corpus = {row["doc_id"]: row["url"] for row in table(built.home, "corpus", "documents")}
    uses = [row for row in table(built.home, "lineage_index", "uses") if row["split"] == "train"]
    use = uses[0]
    answer = built.home.headwater("lineage", corpus[use["doc_id"]], "--json").stdout
    assert use["doc_id"] in answer
    assert RUN in answer
    step = built.home.headwater("lineage", f"{RUN}:{use['first_step']}", "--json").stdout
    assert corpus[use["doc_id"]] in step
    checkpoint = built.home.headwater("lineage", f"{RUN}/12", "--json").stdout
    assert RUN in checkpoint
    missing = built.home.headwater("lineage", "https://nowhere.example/", expect=1)
    assert "nowhere.example" in missing.stderr


def test_held_out_documents_are_in_no_training_sequence(built: Built) -> None:
    mixture = table(built.home, "mixture_manifest", "documents", RUN)
    heldout = {row["doc_id"] for row in mixture if row["split"] == "heldout"}
    trained = {row["doc_id"] for row in table(built.home, "order_manifest", "order", RUN)}
    assert heldout
    assert trained
    assert not heldout & trained
    assert built.home.headwater("audit").returncode == 0


def test_loss_falls_and_at_least_three_checkpoints_are_scored(built: Built) -> None:
    scores = built.summary["scores"]
    assert len(scores) >= 3
    losses = [row["loss"] for row in scores]
    assert losses[-1] < losses[0]


def test_the_store_is_readable_by_duckdb_alone_and_verifies(built: Built) -> None:
    store = open_store(built.home.state / "store.git")
    path = store.local_path("main", "dedup/corpus/documents-00000.parquet")
    rows = duckdb.sql(f"select language, count(*) from read_parquet('{path}') group by all").fetchall()
    assert dict(rows).keys() >= {"zh", "en", "code"}
    assert pq.ParquetFile(path).metadata.num_rows == sum(count for _, count in rows)
    assert "all whole" in built.home.headwater("verify").stdout


def test_log_and_diff_tell_the_history_of_the_data(built: Built) -> None:
    log = built.home.json("log", "--limit", "100")
    commits = log["commits"]
    assert not log["more"]
    assert any(commit["metadata"].get("asset") == "corpus" for commit in commits)
    corpus = built.home.json("log", "dedup/corpus/")["commits"]
    assert len(corpus) == 1
    changed = built.home.json("diff", corpus[0]["parents"][0], corpus[0]["id"])
    assert {"dedup/corpus/documents-00000.parquet"} <= {change["path"] for change in changed}


def test_plan_of_a_finished_build_is_empty_and_of_a_recrawl_is_not(built: Built) -> None:
    assert built.home.json("plan", "--recipe", "tiny")["steps"] == []
    steps = built.home.json("plan", "--recipe", "tiny", "--recrawl", "site")["steps"]
    assert {"raw_crawl", "corpus", "lineage_audit"} <= {step["asset"] for step in steps}
    assert "tokenizer" not in {step["asset"] for step in steps}


def test_lineage_says_how_many_documents_match(built: Built) -> None:
    part = built.home.json("lineage", "127.0.0.1", "--limit", "2")
    assert part["shown"] == len(part["documents"]) == 2 < part["total"]
    whole = built.home.json("lineage", "127.0.0.1", "--all")
    assert whole["shown"] == whole["total"] == part["total"] == len(whole["documents"])
    said = built.home.headwater("lineage", "127.0.0.1", "--limit", "2").stdout
    assert f"2 of {part['total']} documents that match are shown" in said
    assert f"{part['total']} documents match" in built.home.headwater("lineage", "127.0.0.1", "--all").stdout
