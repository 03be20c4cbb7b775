"""Moving, splitting and tidying code makes nothing stale: in a copy of the repository, read by a fresh process."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from tests.orchestration.identity.test_code_version import changed_by, digests
from tests.orchestration.identity.test_code_version import copy as copy

pytestmark = pytest.mark.timeout(400)

MOVES = {
    "assets.build": "assets.contract.build",
    "assets.schemas": "assets.contract.columns",
    "assets.tables": "assets.contract.tables",
    "assets.hashing": "assets.contract.digests",
    "assets.plots": "assets.pictures",
    "assets.dedup.corpus": "assets.dedup.members.listing",
    "assets.dedup.signatures": "assets.dedup.minhash",
    "assets.documents.heuristics": "assets.documents.rules.heuristics",
    "assets.executors.local": "assets.executors.local",
    "assets.evaluation.items": "assets.evaluation.questions.reading",
    "assets.tokenizer.training": "assets.tokenizer.bpe",
    "assets.sources.web.fetch": "assets.sources.web.fetching",
    "training.model.llama": "training.network.model",
    "training.trainer": "training.loop",
}
"""Among them the modules that every stage imports, one that is outside the data, one that stages.py names, and one
that knows where it stands (`Path(__file__)`)."""


def move(root: Path, old: str, new: str) -> None:
    """`git mv` with its imports rewritten, as an editor does it."""
    before, after = (root.joinpath(*name.split(".")).with_suffix(".py") for name in (old, new))
    after.parent.mkdir(parents=True, exist_ok=True)
    for folder in after.relative_to(root).parents:
        if str(folder) != ".":
            (root / folder / "__init__.py").touch()
    before.rename(after)
    (parent, name), (target, renamed) = old.rsplit(".", 1), new.rsplit(".", 1)
    dotted = re.compile(rf"(?<![\w.]){re.escape(old)}(?![\w])")
    single = re.compile(rf"^(\s*)from {re.escape(parent)} import {name}$", re.MULTILINE)
    listed = re.compile(rf"^(\s*)from {re.escape(parent)} import (.*\b{name}\b.*)$", re.MULTILINE)

    def out_of_list(found: re.Match[str]) -> str:
        others = [each.strip() for each in found[2].split(",") if each.strip() != name]
        bound = renamed if renamed == name else f"{renamed} as {name}"
        return f"{found[1]}from {parent} import {', '.join(others)}\n{found[1]}from {target} import {bound}"

    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        moved = dotted.sub(new, text)
        moved = single.sub(rf"\1from {target} import {renamed}{'' if renamed == name else f' as {name}'}", moved)
        moved = listed.sub(out_of_list, moved)
        if moved != text:
            path.write_text(moved, encoding="utf-8")


@pytest.fixture
def own(copy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(copy, tmp_path / "own"))


def test_moved_modules_make_nothing_stale(own: Path) -> None:
    before = digests(own)
    for old, new in MOVES.items():
        move(own, old, new)
    assert not (own / "assets/build.py").exists()
    assert digests(own) == before


def test_a_module_that_is_split_in_two_makes_nothing_stale(own: Path) -> None:
    before = digests(own)
    path = own / "assets/dedup/corpus.py"
    text = path.read_text(encoding="utf-8")
    cut = text.index("def corpus_stats(")
    imports = text[text.index("from __future__") : text.index("EXTRACTED_COLUMNS")]
    (own / "assets/dedup/corpus_figures.py").write_text(imports + text[cut:], encoding="utf-8")
    path.write_text(text[:cut], encoding="utf-8")
    one, other = "from assets.dedup.corpus import", "from assets.dedup.corpus_figures import"
    for reader in ("assets/dedup/defs.py", "assets/dedup/reports.py", "assets/dedup/clusters.py"):
        text = (own / reader).read_text(encoding="utf-8")
        changed = text.replace(f"{one} count", f"{other} count").replace(
            "assemble, corpus_stats\n", f"assemble\n{other} corpus_stats\n"
        )
        assert changed != text
        (own / reader).write_text(changed, encoding="utf-8")
    assert digests(own) == before


@pytest.mark.slow
def test_renamed_local_variables_make_nothing_stale(copy: Path) -> None:
    file = "assets/dedup/signatures.py"
    text = (copy / file).read_text(encoding="utf-8")
    function = ast.unparse(function_of(text, "minhash"))
    names = {node.id for node in ast.walk(ast.parse(function)) if isinstance(node, ast.Name) and stored(node)}
    assert len(names) > 3
    renamed = function
    for name in names:
        renamed = re.sub(rf"(?<![\w.]){name}\b(?!=)", f"{name}_by_another_name", renamed)
    assert changed_by(copy, file, source_of(text, "minhash"), renamed) == set()


@pytest.mark.slow
def test_a_file_in_another_order_makes_nothing_stale(copy: Path) -> None:
    file = "assets/dedup/signatures.py"
    text = (copy / file).read_text(encoding="utf-8")
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert len(names) > 3
    turned = text
    for name in names:
        turned = turned.replace(source_of(text, name), "")
    turned += "\n\n".join(source_of(text, name) for name in reversed(names)) + "\n"
    assert changed_by(copy, file, text, turned) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after", "stages"),
    [
        pytest.param(
            "assets/dedup/signatures.py", "BATCH = 1024", "BATCH = 2048", {"document_signatures"}, id="constant"
        ),
        pytest.param("assets/dedup/signatures.py", "default=108", "default=112", {"document_signatures"}, id="default"),
        pytest.param(
            "assets/sources/web/strict_http.py", "> MAX_HEAD", ">= MAX_HEAD", {"raw_crawl"}, id="named in a string"
        ),
        pytest.param(
            "assets/hashing.py", "TWO_TO_64 = 2.0**64", "TWO_TO_64 = 2.0**63", {"mixture_manifest"}, id="shared"
        ),
        pytest.param("assets/hashing.py", "def mix64(", "def mix64(  # a comment\n    ", set(), id="comment"),
        pytest.param("assets/plots.py", "(7.0, 3.5)", "(9.0, 3.5)", set(), id="outside the data"),
    ],
)
def test_a_change_is_one_of_the_stages_that_use_it_and_of_no_other(
    copy: Path, file: str, before: str, after: str, stages: set[str]
) -> None:
    assert changed_by(copy, file, before, after) == stages


def function_of(text: str, name: str) -> ast.FunctionDef:
    return next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)


def source_of(text: str, name: str) -> str:
    found = ast.get_source_segment(text, function_of(text, name))
    assert found
    return found


def stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)
