"""What Dagster's own SQLite files say of partitions and runs, read without Dagster.

Importing Dagster and opening its instance is most of what a `headwater run` with nothing to do would cost. Only two
questions need an answer then, and whatever is not as expected (another storage, another schema, a damaged file) is
answered by Dagster itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from orchestration.process.workplace import Workplace

FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
_OTHER_STORAGE = ("storage:", "run_storage:", "event_log_storage:")


def partitions(workplace: Workplace, kind: str) -> list[str]:
    """Partitions of a kind that were started."""
    found = None
    if "instance" not in vars(workplace):
        query = "SELECT partition FROM dynamic_partitions WHERE partitions_def_name = ? ORDER BY id"
        found = _ask(workplace, "history/runs/index.db", query, (kind,))
    return list(workplace.instance.get_dynamic_partitions(kind)) if found is None else [str(row[0]) for row in found]


def no_run_is_under_way(workplace: Workplace) -> bool:
    """Whether Dagster surely knows no unfinished run, so that there is none to wait for or to mark as dead."""
    marks = ", ".join("?" * len(FINISHED))
    query = f"SELECT count(*) FROM runs WHERE status NOT IN ({marks})"
    return _ask(workplace, "history/runs.db", query, FINISHED) == [(0,)]


def _ask(workplace: Workplace, name: str, query: str, values: Sequence[str]) -> list[tuple[object, ...]] | None:
    """The rows; none of a history that is not begun; None where only Dagster can tell."""
    home = workplace.dagster_home
    if _stores_elsewhere(home / "dagster.yaml"):
        return None
    path = home / name
    if not path.exists():
        return [] if not (home / "history").exists() else None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            return list(database.execute(query, tuple(values)))
    except sqlite3.Error:
        return None


def _stores_elsewhere(settings: Path) -> bool:
    try:
        lines = settings.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return True
    return any(line.startswith(_OTHER_STORAGE) for line in lines)
