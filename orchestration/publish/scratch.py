"""Folders of builds that are not published yet, named by fingerprint."""

from __future__ import annotations

import shutil
from pathlib import Path


def prepare_scratch(scratch: Path, here: Path, *, keep_output: bool) -> None:
    """Empty the scratch folder of other fingerprints and, unless resumable, of interrupted attempts."""
    if scratch.exists():
        for other in scratch.iterdir():
            if other != here:
                shutil.rmtree(other)
    if here.exists() and not keep_output:
        shutil.rmtree(here)
    for name in ("output", "work"):
        (here / name).mkdir(parents=True, exist_ok=True)
