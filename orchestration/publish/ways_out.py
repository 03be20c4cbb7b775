"""What a blocked build says: which checks failed, where the data is, and last a command that leads on."""

from __future__ import annotations

from collections.abc import Iterable

from orchestration.identity.partitions import split_key
from orchestration.identity.status import CRAWL
from orchestration.publish.staged import Staged
from orchestration.stages import Stage
from quality.asset_checks import NamedOutcome
from quality.yields import accept_command

LACK_TEXT = frozenset(
    {
        *("corpus_is_not_empty", "sample_has_documents_to_fit_on", "sample_has_documents_to_audit"),
        *("vocabulary_exceeds_the_bytes", "every_channel_has_held_out_documents"),
    }
)
"""Checks that fail for want of text: what is made again of the same would be the same."""


def blocked(staged: Staged, sources: Iterable[str]) -> str:
    """The whole message; `sources` are those of sources.toml."""
    failed = staged.failed
    lines = "; ".join(f"{check.name}: {check.outcome.description.rstrip('.')}" for check in failed)
    return (
        f"{staged.stage.name}: {len(failed)} blocking check(s) failed: {lines}. Nothing was published; the staged data "
        f"is on branch {staged.branch} (headwater diff main {staged.branch}). "
        f"{way_out(staged.stage, staged.partition, failed, sorted(sources))}"
    )


def way_out(stage: Stage, partition: str | None, failed: Iterable[NamedOutcome], sources: list[str]) -> str:
    """One or two sentences, the last of which ends with a command."""
    concerned = [check.outcome.metadata.get("sources", ()) for check in failed]
    source = split_key(partition)[0] if stage.partition == "crawl" and partition else None
    accept = ""
    if all(concerned):
        agreed = sorted({name for each in concerned for name in each})
        recrawl = [source] if source and stage.name == CRAWL else []
        accept = f"If it is as it should be: `{accept_command(agreed, recrawl)}`."
    if source:
        again = f"`headwater run --recrawl {source}`"
        if stage.name == CRAWL:
            return f"To crawl it again, when the source is well: {again}. {accept}".rstrip()
        return f"Mend the recipe and run again, or crawl the source again, which takes the place of this crawl: {again}. {accept}".rstrip()
    if accept:
        return accept
    if stage.partition == "run":
        return "Mend the recipe or the data; then a new run: `headwater run --new-run`."
    if any(check.name in LACK_TEXT for check in failed):
        again = (
            dict.fromkeys(("tokenizer_sample", stage.name)) if stage.group == "tokenizer" else ()
        )  # else it is frozen
        options = " ".join([f"--recrawl {name}" for name in sources] + [f"--rebuild {name}" for name in again])
        return f"It lacks text: mend or add sources, then `headwater run {options}`."
    return f"Mend what is wrong, then have it made from the beginning: `headwater run --rebuild {stage.name}`."
