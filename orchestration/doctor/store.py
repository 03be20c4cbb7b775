"""What `headwater doctor` finds out about the store: whether its servers answer, and what was taken down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from orchestration.doctor.finding import Finding, well
from orchestration.store.contract import MAIN, StoreError
from orchestration.upkeep.taken_down import by_partition, sentence, taken_down

NAME = "store"
REMEDY = "docs/store.md says which variables name the servers and their keys, and how to start both."


def store(environ: Mapping[str, str]) -> list[Finding]:
    """Whether the lakeFS server and the bucket of $HEADWATER_STORE answer, asked once and briefly."""
    url = environ.get("HEADWATER_STORE", "")
    if not url.startswith("lakefs://"):
        return []
    from orchestration.store.lakefs.settings import LakefsSettings, Patience

    try:
        settings = LakefsSettings.from_environment(url, environ)
        settings = replace(settings, patience=Patience(attempts=1, connect_timeout_s=3.0, read_timeout_s=5.0))
        from orchestration.store.lakefs.store import LakefsStore

        opened = LakefsStore(settings)
        version = opened.api.server_version()
        takedowns = len(opened.objects.purged())
        branches = len(opened.branches())
    except StoreError as error:
        return [Finding(NAME, False, "error", str(error), REMEDY)]
    found = f"{url} at {settings.endpoint}: lakeFS {version}, {branches} branches, {takedowns} takedowns; its bucket answers"
    return [well(NAME, found)]


def newest_moments(home: Path, environ: Mapping[str, str]) -> tuple[float, list[str]]:
    """When the newest commit was made (0 without one), and the published partitions that are ahead of the clock.

    Nothing of a store that is not there or cannot be read: that is for other checks to say.
    """
    from orchestration.identity.catalog import CatalogError, read_catalog
    from orchestration.identity.key_order import is_ahead
    from orchestration.identity.partitions import is_key
    from orchestration.store import open_store

    place = environ.get("HEADWATER_STORE") or str(home / "store.git")
    if "://" not in place and not Path(place.removeprefix("git:")).exists():
        return 0.0, []
    try:
        opened = open_store(place)
        published = {key for _, key in read_catalog(opened).manifests if key}
        commit = next(iter(opened.log(MAIN, limit=1)), None)
    except (StoreError, CatalogError):
        return 0.0, []
    ahead = sorted(key for key in published if is_key(key) and is_ahead(key))
    return datetime.fromisoformat(commit.committed_at).timestamp() if commit else 0.0, ahead


def takedowns(home: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Partitions of main that lost files to a takedown: what needs them fails. Nothing where there is no store."""
    place = environ.get("HEADWATER_STORE") or str(home / "store.git")
    if "://" not in place and not Path(place.removeprefix("git:")).is_dir():
        return []
    from orchestration.store import open_store

    try:
        parts = by_partition(taken_down(open_store(place)))
    except StoreError:
        return []  # `store` and `headwater verify` tell of it
    return [
        Finding("taken down", False, "warning", f"{files[0].label}: {sentence(files)}", files[0].way_out)
        for files in parts.values()
    ]
