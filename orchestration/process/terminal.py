"""The one way to the terminal. Titles, addresses and errors come from the internet: none of them may steer it."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

PLAIN_WIDTH = 160
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]"  # the two-character ones
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LONE = re.compile(r"[\ud800-\udfff]")  # a byte of a file name that is no UTF-8
_UNSEEN = re.compile(rf"{_CONTROL.pattern}|{_LONE.pattern}")


def visible(text: str) -> str:
    """Text without what a terminal obeys instead of showing it: escape sequences, control characters, turns of direction."""
    return _LONE.sub("\ufffd", _CONTROL.sub("", _SEQUENCE.sub("", text)))


def quoted(text: str) -> str:
    """Somebody else's text inside our markup: visible, and no tag of its own."""
    return escape(visible(text))


class SafeConsole(Console):
    """A console whose own styles reach the terminal, and nothing else that a terminal would obey.

    After layout a sequence may lie in pieces, of which only the harmless ones remain; `visible` before it leaves none.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of anything that is printed, shown in a live display or in a cell."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(as_json: bool = False) -> Console:
    """For people: standard output, or standard error while standard output carries JSON."""
    found = SafeConsole(stderr=as_json, highlight=False)
    if not found.is_terminal:
        found.width = PLAIN_WIDTH  # a pipe has no width, and folded tables cannot be read or searched
    return found


def emit(value: Any) -> None:
    """One JSON document on standard output. It is data: what a terminal would obey is spelled \\uXXXX, not left out."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write(_UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def print_traceback(error: BaseException) -> None:
    """What Python prints of a bug, which may quote a page too."""
    sys.stderr.write(visible("".join(traceback.format_exception(error))))


def listed(names: Sequence[str], shown: int = 8) -> str:
    """The first names of a list and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
