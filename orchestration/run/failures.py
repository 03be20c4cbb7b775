"""What a command says at its end of the steps that failed, and of what waits for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestration.identity.catalog import Catalog
from orchestration.identity.partitions import split_key
from orchestration.identity.status import CRAWL
from orchestration.process.terminal import listed


@dataclass(frozen=True)
class Failure:
    """One step that failed, in the failing asset's own words."""

    job: str
    partition: str | None
    message: str


def told(failed: Sequence[Failure], waiting: Mapping[str, Sequence[str]], catalog: Catalog) -> str:
    """One message about all of them: each failure with its way out, then what could not be built without them."""
    entries = [f"{failure.message}{_way_out(failure, catalog)}" for failure in failed]
    if len(entries) > 1:
        labels = [f"{failure.job} {failure.partition or ''}".strip() for failure in failed]
        entries = [f"- {label}: {entry}" for label, entry in zip(labels, entries, strict=True)]
        entries.insert(0, f"{len(failed)} steps failed; what does not need them was done.")
    if waiting:
        lacking = sorted({name for names in waiting.values() for name in names} - set(waiting))
        entries.append(f"Not built, for {listed(lacking)} is not fresh: {listed(list(waiting))}.")
    return "\n".join(entries)


def held_back(key: str) -> str:
    """Why an unfinished crawl is left alone, and what can be done about it."""
    return (
        f"{key} failed before and is not tried again by itself: `headwater run --recrawl {split_key(key)[0]}` tries it, "
        f"`headwater run --abandon {key}` forgets it."
    )


def _way_out(failure: Failure, catalog: Catalog) -> str:
    """What becomes of a crawl that published nothing."""
    key = failure.partition
    if failure.job != "crawl_job" or key is None or catalog.get(CRAWL, key) or CRAWL not in failure.message:
        return ""
    source = split_key(key)[0]
    if not any(split_key(other)[0] == source for other in catalog.partitions(CRAWL)):
        return f" `headwater run` tries {key} again, for {source} has no crawl yet."
    return (
        f" The crawl of {source} before it is served. `headwater run` tries {key} once more, "
        f"`headwater run --recrawl {source}` whenever you ask; `headwater run --abandon {key}` forgets it."
    )
