"""JSON as it was written: integers of any length stay integers."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_LONG_INTEGER = re.compile(rb"(?:^|[:,\[\s])-?[0-9]{19,}")
"""orjson keeps 64 bits and makes a float of more: an id would then name another row, or none."""


def exact_json(content: bytes) -> Any:
    """One JSON text in UTF-8. Raises orjson.JSONDecodeError, which is a ValueError."""
    found = orjson.loads(content)
    if _LONG_INTEGER.search(content):
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return found  # digits by the thousand or brackets too deep for Python: no id is in there
    return found
