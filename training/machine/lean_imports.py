"""torchtitan imported without what a run does not use: a third to a half of a rank's start-up.

torchtitan's validator imports Hugging Face `datasets` (and with it pandas), and its attention module calls
`torch.compile` while it is defined, which imports the whole compiler. We have a loader of our own, and on
CPU neither of the two attentions that are compiled. A module is put in their place while torchtitan is
imported, and taken away again.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Import torchtitan inside this block. Changes nothing for modules that are imported already."""
    compile_now = torch.compile
    absent = {"datasets": _absent("Dataset", "load_dataset"), "datasets.distributed": _absent("split_dataset_by_node")}
    if "datasets" in sys.modules:
        absent.clear()
    sys.modules.update(absent)
    if not torch.cuda.is_available():  # there, compiled attention is called from compiled blocks
        torch.compile = _at_first_call(compile_now)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_now
        for name in absent:
            del sys.modules[name]


def _absent(*names: str) -> types.ModuleType:
    module = types.ModuleType("absent")
    for name in names:
        setattr(module, name, None)
    return module


def _at_first_call(compile_now: Callable[..., Any]) -> Callable[..., Any]:
    def compile_later(model: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if model is None:
            return functools.partial(compile_later, **options)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(model)
        def call(*arguments: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(compile_now(model, **options))
            return compiled[0](*arguments, **named)

        return call

    return compile_later
