"""What counts as a change of code: in a copy of the repository, edited, read by a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY

READ = """
import json
from orchestration.identity.code_version import code_version
from orchestration.stages import STAGES
print(json.dumps(%s))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    (root / ".headwater").mkdir()  # so that what is found is kept
    for package in ("orchestration", "assets", "quality", "training"):
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def digests(root: Path) -> dict[str, str]:
    return read(root, "{s.name: code_version(s).digest for s in STAGES}")


def read(root: Path, expression: str) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "HEADWATER_HOME"}
    command = [sys.executable, "-c", READ % expression]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def changed_by(root: Path, file: str, before: str, after: str) -> set[str]:
    """Assets whose code version differs after one edit, which is undone again."""
    path = root / file
    text = path.read_text(encoding="utf-8")
    assert before in text, f"{before!r} is not in {file}"
    old = digests(root)
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    try:
        new = digests(root)
    finally:
        path.write_text(text, encoding="utf-8")
    return {name for name in old if old[name] != new[name]}


def test_comments_docstrings_and_formatting_change_nothing(copy: Path) -> None:
    first = "from __future__ import annotations\n"
    assert changed_by(copy, "assets/dedup/corpus.py", first, first + "\n# another comment\n\n\n") == set()
    module = (copy / "assets/dedup/corpus.py").read_text(encoding="utf-8")
    opening = module[: module.index('"""', 3) + 3]
    assert changed_by(copy, "assets/dedup/corpus.py", opening, '"""Another docstring."""') == set()


def test_code_of_one_stage_changes_that_stage_alone(copy: Path) -> None:
    first = "from __future__ import annotations\n"
    assert changed_by(copy, "assets/dedup/corpus.py", first, first + "\nNEW_CONSTANT = 1\n") == {"corpus"}


def test_a_shared_schema_changes_only_the_stages_that_use_it(copy: Path) -> None:
    field = '"overlap": pa.float64()'
    found = changed_by(copy, "assets/schemas.py", field, '"overlap": pa.float32()')
    assert "contamination" in found
    assert not found & {"raw_crawl", "crawl_delta", "extracted_documents", "tokenizer", "order_manifest"}


@pytest.mark.slow
def test_checks_and_their_thresholds_are_not_part_of_the_data(copy: Path) -> None:
    text = "from __future__ import annotations\n"
    for file in ("quality/thresholds.py", "quality/dedup_checks.py", "orchestration/publish/publisher.py"):
        assert changed_by(copy, file, text, text + "\nNEW_CONSTANT = 1\n") == set()


def test_the_training_program_counts_for_checkpoints_only(copy: Path) -> None:
    method = "class OrderLoader:\n"
    found = changed_by(copy, "training/data/order_dataset.py", method, method + "    new_constant = 1\n")
    assert found == {"base_checkpoints"}


@pytest.mark.slow
def test_what_was_kept_is_used_only_when_it_is_whole_and_of_these_sources(copy: Path) -> None:
    kept = copy / ".headwater/scratch/code_parts.json"
    found = digests(copy)
    content = json.loads(kept.read_text(encoding="utf-8"))
    content["found"]["corpus"]["code"][0] = "0" * 64
    kept.write_text(json.dumps(content), encoding="utf-8")
    assert digests(copy)["corpus"] != found["corpus"], "what is kept is read"
    kept.write_text(json.dumps(content)[:-40], encoding="utf-8")
    assert digests(copy) == found, "what is cut short is not"
    kept.write_text(json.dumps(content | {"of": "0" * 64}), encoding="utf-8")
    assert digests(copy) == found, "what belongs to other sources is not"


def test_an_installed_library_is_seen_although_the_list_of_libraries_is_kept(copy: Path) -> None:
    def libraries() -> dict[str, str]:
        return read(copy, "{name: text for s in STAGES for name, text in code_version(s).libraries.items()}")

    before = libraries()
    assert "numpy" in json.loads((copy / ".headwater/scratch/distributions.json").read_text(encoding="utf-8"))["found"]
    information = copy / "made_up_library-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-library\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("numpy\n")
    try:
        assert libraries() == before | {"made-up-library": "1.0"}
    finally:
        shutil.rmtree(information)
    assert libraries() == before
