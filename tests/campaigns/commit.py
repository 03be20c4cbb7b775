"""Which commit a result belongs to."""

from __future__ import annotations

import subprocess

from tests.end_to_end.harness import REPOSITORY


def commit() -> str:
    """Short hash of the checked-out commit."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip()
