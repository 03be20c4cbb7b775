"""What one run of the demo made of its pages: the figures that README and docs/stages quote, docs/results/demo.json.

make demo && python -m benchmarks.demo_run --seconds 412     # the seconds that `make demo` printed at its end
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from statistics import fmean
from typing import Any

from benchmarks.results import Goal, Result, finish, has_number, why
from orchestration.cli.render.scores import checkpoint_scores
from orchestration.config import home_folder
from orchestration.identity.catalog import Catalog, read_catalog, segment
from orchestration.stages import BY_NAME, STAGES
from orchestration.store import open_store
from orchestration.store.contract import VersionedStore

CODE = ("assets", "config/recipes", "config/sources.toml")
TREE = "/handbook/"
STEPS_BEFORE = 20
"""A checkpoint's training loss is the mean of so many steps: single batches differ by half a nat."""


def main() -> int:
    """Read the store of $HEADWATER_HOME; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="of the whole run, as `make demo` printed them")
    asked = parser.parse_args()
    store = open_store(home_folder() / "store.git")
    found = Demo(store, read_catalog(store))
    figures = found.figures() | {"seconds": asked.seconds}
    return finish(result_of(found.rows(), figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """The figures describe the demo's pages and its tiny model; what must hold of any run is judged."""
    stages = [row for row in rows if row["what"] == "stage" and row["documents_in"] is not None]
    lost = sum(row["documents_in"] - row["kept"] - sum(row["dropped"].values()) for row in stages)
    last = [row for row in rows if row["what"] == "checkpoint"][-1]
    goals = [
        Goal("documents without a fate", abs(lost), "<=", 0, ("documents_in", "kept", "dropped")),
        Goal("violations found by the audit", figures["violations"], "<=", 0, ("violations",)),
        Goal(
            "last checkpoint's loss over the unigram model's",
            last["loss"] / figures["baseline"]["loss"],
            "<=",
            1,
            ("loss", "baseline"),
        ),
    ]
    numbers = {name for row in rows for name, value in row.items() if has_number(value)}
    numbers |= {name for name, value in figures.items() if has_number(value)}
    judged = {name for goal in goals for name in goal.of}
    return Result(
        "demo", CODE, goals, rows, figures, why("describes this corpus and this model", *sorted(numbers - judged))
    )


class Demo:
    """A finished demo's tables and statistics."""

    def __init__(self, store: VersionedStore, catalog: Catalog) -> None:
        self.store, self.catalog = store, catalog

    def table(self, asset: str, name: str) -> list[dict[str, Any]]:
        """Of the newest partition."""
        manifest = self.catalog.get(asset, self.catalog.keys(asset)[-1])
        assert manifest is not None
        return segment(self.store, self.catalog.commit, manifest).table(name).to_pylist()

    def statistics(self, asset: str) -> dict[str, Any]:
        """Of the newest partition."""
        manifest = self.catalog.get(asset, self.catalog.keys(asset)[-1])
        assert manifest is not None
        return manifest["report"]["stats"]

    def rows(self) -> list[dict[str, Any]]:
        """A row per stage, tree of the handbook, channel and checkpoint; `what` says which."""
        return [*self._stages(), *self._trees(), *self._channels(), *self._checkpoints()]

    def figures(self) -> dict[str, Any]:
        """What belongs to no row."""
        scores = checkpoint_scores(self.store, self.catalog)
        assert scores is not None
        corpus, clusters = self.statistics("corpus"), self.statistics("duplicate_clusters")
        named = ("largest_cluster", "nodes", "pairs_in_a_bucket", "computed_pairs", "proven_pairs", "proofs_recomputed")
        audit, plan = self.statistics("lineage_audit"), self.statistics("compute_plan")
        return {
            "run": scores.run,
            "crawls": sorted(self.catalog.partitions("raw_crawl")),
            "documents": corpus["kept_by_language"],
            "utf8_bytes": corpus["utf8_bytes"],
            "tokens": self.statistics("token_shards")["tokens_in_index"],
            "clusters": {name: clusters[name] for name in ("clusters", *named)},
            "contamination_items": self.statistics("contamination")["items_searched"],
            "vocabulary": self.statistics("tokenizer")["vocabulary_size"],
            "unused_token_share": self.statistics("tokenizer_report")["unused_token_share"],
            "round_trip_failures": self.statistics("tokenizer_report")["round_trip_failures"],
            "uses": self.statistics("order_manifest")["documents_by_uses"],
            "heldout": scores.heldout,
            "heldout_token_share": self.statistics("mixture_manifest")["heldout_token_share"],
            "parameters": plan["parameters"],
            "tokens_per_parameter": plan["tokens_per_parameter"],
            "baseline": scores.baseline,
            "control": scores.control,
            "violations": audit["violations"],
            "checked": audit["checked"],
            "audit_rules": audit["rules"],
        }

    def _stages(self) -> list[dict[str, Any]]:
        rows = []
        for stage in STAGES:
            keys = self.catalog.keys(stage.name)
            if BY_NAME[stage.name].partition == "run":
                keys = keys[-1:]
            reports = [m["report"] for m in (self.catalog.get(stage.name, key) for key in keys) if m]
            seconds = sum(m["duration_s"] for m in (self.catalog.get(stage.name, key) for key in keys) if m)
            dropped: Counter[str] = Counter()
            for report in reports:
                dropped.update(report["dropped"])
            documents = {"documents_in": "documents_in", "kept": "documents_kept"}
            counts = {
                name: sum(r[key] for r in reports) if all(r[key] is not None for r in reports) else None
                for name, key in documents.items()
            }
            rows.append(
                {"what": "stage", "name": stage.name}
                | counts
                | {"dropped": dict(dropped.most_common()), "stage_seconds": round(seconds, 1)}
            )
        return rows

    def _trees(self) -> list[dict[str, Any]]:
        """Fates of the handbook's pages by language tree, and the languages of those that stayed."""
        language = {row["doc_id"]: row for row in self.table("corpus", "documents")}
        fates: dict[str, Counter[str]] = {}
        kept: dict[str, Counter[str]] = {}
        for row in self.table("corpus", "decisions"):
            if TREE in row["url"]:
                tree = row["url"].partition(TREE)[2].partition("/")[0]
                fates.setdefault(tree, Counter())[row["drop_reason"] or "kept"] += 1
                if row["drop_reason"] is None:
                    document = language[row["doc_id"]]
                    kept.setdefault(tree, Counter())[f"{document['language']}-{document['script']}"] += 1
        return [
            {
                "what": "tree",
                "name": tree,
                "fates": dict(sorted(fates[tree].items())),
                "languages": dict(kept[tree].most_common()),
            }
            for tree in sorted(fates)
        ]

    def _channels(self) -> list[dict[str, Any]]:
        plan = self.table("mixture_manifest", "plan")
        rows = []
        for report in self.table("tokenizer_report", "report"):
            row: dict[str, Any] = {"what": "channel", "name": report["channel"]}
            names = ("bytes_per_token", "characters_per_token", "hanzi_per_token", "tokens_per_word")
            row |= {name: report[name] and round(report[name], 4) for name in names}
            row["audit_documents"] = report["documents"]
            for cell in (cell for cell in plan if cell["channel"] == report["channel"]):
                row |= {f"{cell['phase']}_{name}": round(cell[name], 4) for name in ("wanted_share", "share", "uses")}
            rows.append(row)
        return rows

    def _checkpoints(self) -> list[dict[str, Any]]:
        """Scores and training losses."""
        scores = checkpoint_scores(self.store, self.catalog)
        assert scores is not None
        metrics = self.table("base_checkpoints", "metrics")
        rows = []
        for score in scores.as_json()["scores"]:
            step = score["step"]
            before = [row for row in metrics if step - STEPS_BEFORE < row["step"] <= step]
            channels = {name for row in before for name, _ in row["channel_loss"]}
            trained = {"all": fmean(row["loss"] for row in before)} | {
                name: fmean(loss for row in before for found, loss in row["channel_loss"] if found == name)
                for name in sorted(channels)
            }
            score.pop("run")
            rows.append(
                {"what": "checkpoint"} | score | {"training_loss": {k: round(v, 4) for k, v in trained.items()}}
            )
        return rows


if __name__ == "__main__":
    sys.exit(main())
