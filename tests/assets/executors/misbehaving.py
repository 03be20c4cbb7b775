"""Blocks of a pipeline that go wrong in the ways that an executor must name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from assets.build import BuildError
from assets.documents.engine import part_path


class Misbehaving(PipelineStep):
    """Task 1 goes wrong; the others write their part."""

    type, name = "READER", "misbehaving"

    def __init__(self, parts: Path, how: str) -> None:
        super().__init__()
        self.parts = parts
        self.how = how

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Raise, refuse, die, or hang in task 1."""
        if rank == 1 and self.how == "raises":
            raise ZeroDivisionError("a bug of a block")
        if rank == 1 and self.how == "refuses":
            raise BuildError("page 7 is damaged: crawl again")
        if rank == 1 and self.how == "dies":
            os._exit(9)  # as the kernel does when memory is short
        if rank == 1 and self.how == "hangs":
            time.sleep(3600)
        part_path(self.parts, rank).write_text(str(os.getpid()))
        yield Document("text", str(rank))
