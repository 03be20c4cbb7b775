"""Wikitext to clean text, by mwparserfromhell's tree: what a reader of the article sees, without its apparatus.

Templates are dropped, except those that only wrap words of the sentence; references, files, categories,
navigation tables and the sections that list sources go; other tables become rows with tabs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from assets.documents.formats.main_content import tidy

FILE_OR_CATEGORY = re.compile(
    r"\s*(file|image|media|category|文件|档案|檔案|图像|圖像|图片|圖片|媒体文件|分类|分類|datei|bild|kategorie|fichier|catégorie"
    r"|ファイル|カテゴリ|archivo|categoría|файл|категория)\s*:",
    re.IGNORECASE,
)
_INTERLANGUAGE = re.compile(r"\s*:?[a-z]{2,3}(-[a-z]+)*\s*:")

FIRST_ARGUMENT = frozenset(
    [
        "nowrap",
        "nobr",
        "small",
        "big",
        "smaller",
        "larger",
        "abbr",
        "tooltip",
        "val",
        "sic",
        "le",
        "link-en",
        "link-de",
        "link-fr",
        "link-ja",
        "link",
        "tsl",
        "ilh",
        "internal",
        "link",
        "helper",
        "nihongo",
        "as",
        "of",
        "translink",
        "lan",
        "zhwiktionary",
        "r-zh",
    ]
)
"""Templates whose first argument is what the reader sees."""

LAST_ARGUMENT = frozenset(
    [
        "lang",
        "lang-zh",
        "script",
        "transl",
        "transliteration",
        "ipa-all",
        "quote",
        "blockquote",
        "cquote",
        "color",
        "font",
    ]
)
"""Templates whose last positional argument is."""

NOT_CONTENT = frozenset(
    [
        "ref",
        "references",
        "gallery",
        "timeline",
        "score",
        "templatestyles",
        "templatedata",
        "indicator",
        "style",
        "script",
        "mapframe",
        "maplink",
        "graph",
        "categorytree",
        "inputbox",
        "imagemap",
        "hiero",
        "section",
    ]
)
CONTENT_VERBATIM = frozenset(["pre", "nowiki", "code", "syntaxhighlight", "source", "math", "chem"])
NAVIGATION_CLASS = re.compile(
    r"infobox|navbox|sidebar|metadata|ambox|vertical-navbox|toccolours|noprint|mbox", re.IGNORECASE
)
APPARATUS = frozenset(
    [
        "references",
        "external links",
        "further reading",
        "notes",
        "see also",
        "bibliography",
        "footnotes",
        "sources",
        "citations",
        "notes and references",
        "参考文献",
        "參考文獻",
        "参考资料",
        "參考資料",
        "外部链接",
        "外部連結",
        "外部鏈接",
        "注释",
        "註釋",
        "注釋",
        "参见",
        "參見",
        "参看",
        "參看",
        "延伸阅读",
        "延伸閱讀",
        "脚注",
        "腳註",
        "相关条目",
        "相關條目",
        "来源",
        "來源",
        "备注",
        "備註",
        "扩展阅读",
    ]
)
"""Headings of sections that list sources and links."""

_VARIANT = re.compile(r"-\{((?:(?!-\{|\}-).)*)\}-", re.DOTALL)
_FALLBACKS = {
    "zh-hans": ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw", "zh-hk", "zh-mo"),
    "zh-hant": ("zh-hant", "zh-tw", "zh-hk", "zh-mo", "zh", "zh-hans", "zh-cn", "zh-sg", "zh-my"),
}
_HIDDEN_FLAGS = frozenset("HT+-")  # rules that only define a conversion, or set the title
_RULE = re.compile(r"\s*(?:.*?=>)?\s*(zh(?:-[a-z]+)?)\s*:(.*)", re.DOTALL)
_MAGIC_WORD = re.compile(r"__[A-Z]+__|\{\{\s*(?:DEFAULTSORT|DISPLAYTITLE)[^}]*\}\}")
_EMPTY_BRACKETS = re.compile(r"[ \t]*(?:\([\s,;:、，；：-]*\)|（[\s,;:、，；：-]*）)")
_BULLET = re.compile(r"^- [ \t]+", re.MULTILINE)
_LEADING_SEPARATOR = re.compile(r"([(（])[\s,;，；、]+")


def plain_wikitext(text: str, variant: str = "") -> str:
    """The article's text; `variant` (zh-hans, zh-hant) chooses inside -{...}-."""
    import mwparserfromhell

    text = _MAGIC_WORD.sub("", choose_variant(text, variant or "zh-hans"))
    code = mwparserfromhell.parse(text, skip_style_tags=False)
    rendered = _without_apparatus(_render(code.nodes))
    rendered = _LEADING_SEPARATOR.sub(r"\1", _EMPTY_BRACKETS.sub("", rendered))
    rendered = _BULLET.sub("- ", rendered)
    return tidy("\n".join(line.rstrip() for line in rendered.replace("\u00a0", " ").split("\n")))


def choose_variant(text: str, variant: str) -> str:
    """Text with every -{...}- replaced by what readers of the variant see; innermost first."""
    for _ in range(5):  # deeper nesting is not written by people
        replaced = _VARIANT.sub(lambda match: _chosen(match[1], variant), text)
        if replaced == text:
            break
        text = replaced
    return text


def _chosen(inside: str, variant: str) -> str:
    flags, bar, rest = inside.partition("|")
    if bar and re.fullmatch(r"[A-Z+\-;a-z ]*", flags):
        if _HIDDEN_FLAGS & set(flags):
            return ""
        inside = rest
    rules = {}
    for part in inside.split(";"):
        if found := _RULE.fullmatch(part):
            rules.setdefault(found[1].lower(), found[2].strip())
    if not rules:
        return inside
    return next((rules[name] for name in _FALLBACKS.get(variant, ()) if name in rules), next(iter(rules.values())))


_HEADING_MARK = "\x01"  # level and title between two of them, until sections have been judged


def _render(nodes: Iterable[Any]) -> str:
    from mwparserfromhell import nodes as kinds

    out: list[str] = []
    for node in nodes:
        if isinstance(node, kinds.Text):
            out.append(node.value)
        elif isinstance(node, kinds.Wikilink):
            out.append(_link(node))
        elif isinstance(node, kinds.Tag):
            out.append(_tag(node))
        elif isinstance(node, kinds.Template):
            out.append(_template(node))
        elif isinstance(node, kinds.Heading):
            out.append(f"\n\n{_HEADING_MARK}{node.level}{_render(node.title.nodes).strip()}{_HEADING_MARK}\n\n")
        elif isinstance(node, kinds.ExternalLink):
            out.append(_render(node.title.nodes) if node.title is not None else "" if node.brackets else str(node.url))
        elif isinstance(node, kinds.HTMLEntity):
            try:
                out.append(node.normalize())
            except ValueError:
                out.append("")  # &#1114112; and the like name no character
    return "".join(out)


def _link(node: Any) -> str:
    title = str(node.title).strip()
    if FILE_OR_CATEGORY.match(title):
        return ""
    if node.text is not None:
        return _render(node.text.nodes)
    if _INTERLANGUAGE.match(title):
        return ""
    return title.lstrip(":").partition("#")[0] or title


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name in NOT_CONTENT:
        return ""
    if name == "br":
        return "\n"
    if name == "hr":
        return "\n\n"
    if node.wiki_markup in ("*", "#"):
        return "- "
    if name in ("dd", "dt") and node.wiki_markup:
        return ""
    if node.contents is None:
        return ""
    if name == "table":
        return _table(node)
    if name in CONTENT_VERBATIM:
        return str(node.contents)
    if name in ("div", "span", "p") and _is_navigation(node):
        return ""
    text = _render(node.contents.nodes)
    return f"\n{text}\n" if name in ("div", "p", "blockquote", "center", "ul", "ol", "li", "poem") else text


def _is_navigation(node: Any) -> bool:
    return any(
        str(attribute.name).strip().lower() == "class" and NAVIGATION_CLASS.search(str(attribute.value))
        for attribute in node.attributes
    )


def _table(node: Any) -> str:
    if _is_navigation(node):
        return ""
    rows: list[list[str]] = [[]]
    _cells(node.contents.nodes, rows)
    return "\n\n" + "\n".join("\t".join(cells) for cells in rows if any(cells)) + "\n\n"


def _cells(nodes: Iterable[Any], rows: list[list[str]]) -> None:
    for node in nodes:
        name = str(getattr(node, "tag", "")).strip().lower()
        if name in ("tr", "tbody", "thead"):
            rows.append([])
            _cells(node.contents.nodes, rows)
        elif name in ("td", "th"):
            cell = " ".join(_render(node.contents.nodes).split()) if node.contents is not None else ""
            if node.wiki_markup == "|" and cell.startswith("+") and not any(map(any, rows)):
                rows += [[cell[1:].strip()], []]  # `|+ caption`, which the parser takes for a cell
            else:
                rows[-1].append(cell)
        elif name == "caption" and node.contents is not None:
            rows += [[" ".join(_render(node.contents.nodes).split())], []]


def _template(node: Any) -> str:
    name = str(node.name).strip().replace("_", " ").lower()
    positional = [parameter for parameter in node.params if not parameter.showkey]
    if name in ("convert", "cvt") and len(positional) >= 2:
        return " ".join(_render(parameter.value.nodes).strip() for parameter in positional[:2])
    if positional and (name in LAST_ARGUMENT or name.startswith("lang-")):
        return _render(positional[-1].value.nodes)
    if positional and name in FIRST_ARGUMENT:
        return _render(positional[0].value.nodes)
    return ""


def _without_apparatus(text: str) -> str:
    """Text with plain headings, without sections whose heading says that they list sources."""
    pieces = re.split(rf"{_HEADING_MARK}(\d)(.*?){_HEADING_MARK}", text, flags=re.DOTALL)
    out = [pieces[0]]
    cut: int | None = None  # level of the section that is being left out
    for level, title, body in zip(map(int, pieces[1::3]), pieces[2::3], pieces[3::3], strict=True):
        if cut is not None and level > cut:
            continue
        cut = level if title.strip().casefold() in APPARATUS else None
        if cut is None:
            out += [title, body]
    return "".join(out)
