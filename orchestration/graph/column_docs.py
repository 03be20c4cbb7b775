"""What each column means, read from the comments in assets/schemas.py: for the UI and the data contract."""

from __future__ import annotations

import ast
import tokenize
from functools import cache

from orchestration.config import REPOSITORY


@cache
def column_comments() -> dict[str, dict[str, str]]:
    """Schema name -> column -> the comment beside it in assets/schemas.py."""
    path = REPOSITORY / "assets/schemas.py"
    found: dict[str, dict[str, str]] = {}
    comments: dict[int, str] = {}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]] = token.string.lstrip("# ")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            columns = found.setdefault(node.targets[0].id, {})  # type: ignore[attr-defined]
            for argument in node.value.args:
                if isinstance(argument, ast.Dict):
                    for key, value in zip(argument.keys, argument.values, strict=True):
                        comment = comments.get(value.end_lineno or 0, comments.get(key.lineno, ""))  # type: ignore[union-attr]
                        columns[key.value] = comment  # type: ignore[union-attr]
    return found
