"""HTML to text: everything that is not navigation, by resiliparse (C++, about 1,500 pages a second).

Tried on 254 pages of the Debian handbook (en, zh-CN): trafilatura (9 times slower) breaks lines at inline code, flattens code blocks and loses half of the text; resiliparse's
own main-content mode loses side notes, short lists and the punctuation between two inline elements.
Both guess where the content is. Documentation says where it is not, so: remove what is marked as
navigation and keep the rest; only a page that is still mostly links goes through the guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

NAVIGATION: tuple[str, ...] = (
    "nav",
    "footer",
    "[role=navigation]",
    "[role=banner]",
    "[role=contentinfo]",
    "[role=search]",
    "[aria-hidden=true]",
    "button",
    "select",
    # page furniture of DocBook, Publican, Sphinx, MkDocs and blogs; `.sidebar` is content in DocBook
    ".docnav",
    ".navheader",
    ".navfooter",
    ".navbar",
    ".breadcrumb",
    ".breadcrumbs",
    ".pagination",
    ".pager",
    ".toc",
    "#toc",
    ".list-of-tables",
    ".list-of-figures",
    ".list-of-examples",
    ".sphinxsidebar",
    ".related",
    ".headerlink",
    ".skip-link",
    ".site-header",
    ".site-footer",
    "#banner",
    "#header",
    "#footer",
    ".cookie-banner",
    ".share-buttons",
)
"""CSS selectors of what surrounds the content."""

_LABELS = (
    r"prev(?:ious)?(?: page)?|next(?: page)?|up|home|top|contents|back(?: to top)?|index|"
    r"上一[页頁]|下一[页頁]|上一[章节節篇]|下一[章节節篇]|上一步|下一步|[后後]退|前[进進]|起始[页頁]|首[页頁]|目[录錄]|返回(?:[顶頂]部|首[页頁])?|"
    r"précédent|suivant|sommaire|zurück|weiter|nach oben|前のページ|次のページ|戻る|次へ|前へ"
)
_NAVIGATION_LINE = re.compile(
    rf"\s*(?:[•|<>«»‹›←→↑·/\-]|\s)*(?:(?:{_LABELS})(?:[•|<>«»‹›←→↑·/\-]|\s)*)+", re.IGNORECASE
)
_NAVIGATION_LINE_CHARACTERS = 80  # longer lines are no labels; also bounds the backtracking of the pattern
_INNER_TABS = re.compile(r"(?<=\S)[ \t]*\t[ \t]*(?=\S)")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class MainContent:
    """Title and text of a page, and whether the text was guessed (a page that is mostly links)."""

    title: str
    text: str
    guessed: bool


def main_content(html: str, *, max_link_share: float) -> MainContent:
    """What the page says, without its navigation; empty text for a page that only links elsewhere."""
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())
    skip = list(NAVIGATION)
    text = _plain(tree, skip_elements=skip)
    unlinked = _plain(tree, skip_elements=[*skip, "a[href]"])
    visible = _weight(text)
    guessed = bool(visible) and (1 - _weight(unlinked) / visible) > max_link_share
    if guessed:
        text = _plain(tree, skip_elements=skip, main_content=True)
    return MainContent(title, tidy(text), guessed)


def _plain(tree: Any, **options: Any) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(tree, alt_texts=False, **options)


def _weight(text: str) -> int:
    return sum(map(len, text.split()))


def tidy(text: str) -> str:
    """No navigation lines, no padding of table cells, at most one blank line in a row; code keeps its indentation."""
    lines = [_INNER_TABS.sub("\t", line.replace("\xa0", " ").rstrip()) for line in text.split("\n")]
    kept = "\n".join("" if _is_navigation(line) else line for line in lines)
    return _BLANK_LINES.sub("\n\n", kept).strip("\n")


def _is_navigation(line: str) -> bool:
    return len(line) <= _NAVIGATION_LINE_CHARACTERS and bool(_NAVIGATION_LINE.fullmatch(line))
