"""Run tags that a person can search for, on every run, whoever started it: source, recipe and reason."""

from __future__ import annotations

from orchestration.identity.partitions import is_key, split_key

SOURCE_TAG, RECIPE_TAG, REASON_TAG = "headwater/source", "headwater/recipe", "headwater/reason"
REASON_CHARACTERS = 250


def search_tags(kind: str | None, partition: str | None, reason: str = "") -> dict[str, str]:
    """Of a run of one crawl (`source@...`) or training run (`recipe@...`), or of the assets without partitions."""
    tags = {}
    if partition and is_key(partition):
        tags[SOURCE_TAG if kind == "crawl" else RECIPE_TAG] = split_key(partition)[0]
    if reason:
        tags[REASON_TAG] = reason[:REASON_CHARACTERS]
    return tags
