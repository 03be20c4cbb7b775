"""Scores per checkpoint of the newest run, for the terminal."""

from __future__ import annotations

from typing import Any

from orchestration.identity.catalog import Catalog, segment
from orchestration.store.contract import VersionedStore


def checkpoint_scores(store: VersionedStore, catalog: Catalog) -> list[dict[str, Any]]:
    """One row per checkpoint: held-out loss and bits per byte beside the unigram baseline, probes, needles."""
    runs = catalog.partitions("perplexity")
    if not runs:
        return []
    run = max(runs, key=lambda key: key.partition("@")[2])

    def rows(asset: str, table: str) -> list[dict[str, Any]]:
        manifest = catalog.get(asset, run)
        return segment(store, catalog.commit, manifest).table(table).to_pylist() if manifest else []

    perplexity = rows("perplexity", "perplexity")
    probes, needles = rows("probability_probes", "probes"), rows("needle_in_haystack", "needles")
    scores = []
    for row in (r for r in perplexity if r["language"] == "all" and r["domain"] == "all"):
        step = row["step"]
        score: dict[str, Any] = {
            "run": run,
            "step": step,
            "tokens seen": row["tokens_seen"],
            "loss": row["loss"],
            "unigram loss": row["unigram_loss"],
            "bits/byte": row["bits_per_byte"],
        }
        for language in ("zh", "en", "code"):
            found = [r for r in perplexity if (r["step"], r["language"], r["domain"]) == (step, language, "all")]
            score[f"bits/byte {language}"] = found[0]["bits_per_byte"] if found else None
        score["probes passed"] = _share([p["passed"] for p in probes if p["step"] == step and p["passed"] is not None])
        score["needles found"] = _share([n["found"] for n in needles if n["step"] == step])
        scores.append(score)
    return scores


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
