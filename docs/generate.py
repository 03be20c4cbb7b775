"""Writes what the docs must not get wrong from what the code and the results say: graph, data contract, figures.

python docs/generate.py          rewrite README.md, README.zh-CN.md (graph), docs/data-contract.md (tables), and
                                 in every page the table of filter rules and the figures of docs/results (docs/figures.py)
python docs/generate.py --check  exit 1 and name the files that are out of date
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


from assets import schemas  # noqa: E402
from assets.tables import VOLATILE_KEY  # noqa: E402
from docs import figures, filter_rules  # noqa: E402
from orchestration.graph.column_docs import column_comments  # noqa: E402
from orchestration.stages import GROUPS, STAGES  # noqa: E402

DOTTED = {"frozen": "-. frozen .->", "pinned": "-. pinned .->", "records": "-.->"}


def graph() -> str:
    """The stage list as a Mermaid flow chart; edges inside a group and one edge per pair of groups."""
    lines = ["```mermaid", "flowchart TB"]
    group_of = {stage.name: stage.group for stage in STAGES}
    for number, group in enumerate(GROUPS, 1):
        lines.append(f'  subgraph {group}["{number} {group}"]')
        lines.append("    direction LR")
        for stage in STAGES:
            if stage.group == group:
                shape = (
                    f'{stage.name}["{stage.name}"]' if stage.partition is None else f'{stage.name}(["{stage.name}"])'
                )
                lines.append(f"    {shape}")
        lines.append("  end")
    crossings: dict[tuple[str, str], str] = {}
    for stage in STAGES:
        for edge in stage.inputs:
            if edge.kind == "previous":
                continue
            if group_of[edge.upstream] == stage.group:
                lines.append(f"  {edge.upstream} {DOTTED.get(edge.kind, '-->')} {stage.name}")
            else:
                pair = (group_of[edge.upstream], stage.group)
                crossings[pair] = "-->" if edge.kind in ("same", "all") else crossings.get(pair, DOTTED[edge.kind])
    for (before, after), arrow in sorted(crossings.items(), key=lambda item: [GROUPS.index(g) for g in item[0]]):
        if GROUPS.index(after) - GROUPS.index(before) <= 2 or after == "lineage":
            lines.append(f"  {before} {arrow} {after}")
    lines.append("```")
    return "\n".join(lines)


def docstrings() -> dict[str, str]:
    """Schema name -> the string literal below it."""
    body = ast.parse((ROOT / "assets/schemas.py").read_text(encoding="utf-8")).body
    return {
        node.targets[0].id: after.value.value  # type: ignore[attr-defined]
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def tables() -> str:
    """Every public table with its columns."""
    comments, sentences = column_comments(), docstrings()
    parts = []
    for name, sentence in sentences.items():
        schema = getattr(schemas, name)
        volatile = set((schema.metadata or {}).get(VOLATILE_KEY, b"").decode().split(","))
        where, _, meaning = sentence.partition(":")
        parts += [f"### `{where.strip()}`", "", meaning.strip()[:1].upper() + " ".join(meaning.split())[1:], ""]
        parts += ["| column | type | meaning |", "|---|---|---|"]
        for field in schema:
            note = comments[name].get(field.name, "").replace("|", "\\|")
            if field.name in volatile:
                note = (note + "; " if note else "") + "of this execution, not part of the data version"
            parts.append(f"| `{field.name}` | {field.type} | {note} |")
        parts.append("")
    return "\n".join(parts)


def replaced(text: str, mark: str, content: str) -> str:
    """The text with what stands between <!-- mark --> and <!-- /mark --> replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"no <!-- {mark} --> ... <!-- /{mark} --> in the file")
    return pattern.sub(lambda match: match[1] + content + "\n" + match[2], text)


GENERATED = {
    "README.md": {"graph": graph},
    "README.zh-CN.md": {"graph": graph},
    "docs/data-contract.md": {"tables": tables},
}
ON_ANY_PAGE = {"filter-rules": filter_rules.table}


def page(name: str, text: str) -> str:
    """The page as it should be."""
    asked = {mark: make for mark, make in ON_ANY_PAGE.items() if f"<!-- {mark} -->" in text}
    for mark, make in (GENERATED.get(name, {}) | asked).items():
        text = replaced(text, mark, make())
    for mark, content in figures.tables_of(text).items():
        text = replaced(text, mark, content)
    return figures.rendered(text, name)


def main() -> int:
    """Rewrite or check."""
    outdated = []
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        name = path.relative_to(ROOT).as_posix()
        before = path.read_text(encoding="utf-8")
        try:
            after = page(name, before)
        except figures.FigureError as error:
            raise SystemExit(str(error)) from error
        if after != before:
            outdated.append(name)
            if "--check" in sys.argv:
                lines = zip(before.splitlines(), after.splitlines(), strict=False)
                old, new = next(((a, b) for a, b in lines if a != b), ("", ""))
                print(f"{name} says     {old[:200]}\nand should say {new[:200]}")
            else:
                path.write_text(after, encoding="utf-8")
    if outdated:
        print(("out of date: " if "--check" in sys.argv else "rewritten: ") + ", ".join(outdated))
    return int("--check" in sys.argv and bool(outdated))


if __name__ == "__main__":
    raise SystemExit(main())
