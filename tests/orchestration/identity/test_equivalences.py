"""`headwater equivalence declare`: what the last commit built counts as built by the working tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY

SEED = "seed: int = Field(default=42"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for package in ("orchestration", "assets", "quality", "training"):
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=A", "-c", "user.email=a@b.example", "commit", "--quiet", "-m", "before")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


def headwater(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "HEADWATER_HOME": str(root / "home")}
    command = [sys.executable, "-m", "orchestration.cli", "equivalence", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def canonical(root: Path, stage: str) -> str:
    program = (
        "import sys; from orchestration.stages import BY_NAME; from orchestration.identity.code_version import code_version\n"
        "from orchestration.identity.equivalences import canonical_code\n"
        "stage = BY_NAME[sys.argv[1]]; print(canonical_code(stage, code_version(stage).digest))"
    )
    command = [sys.executable, "-c", program, stage]
    environment = os.environ | {"PYTHONPATH": str(root), "HEADWATER_HOME": str(root / "home")}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_a_declared_refactor_counts_as_the_code_before_it(checkout: Path) -> None:
    assert "no stage's code differs" in headwater(checkout, "declare", "nothing").stdout
    before = canonical(checkout, "document_signatures")
    file = checkout / "assets/dedup/signatures.py"
    file.write_text(file.read_text(encoding="utf-8").replace("BATCH = 1024", "BATCH = 1000 + 24"), encoding="utf-8")
    assert canonical(checkout, "document_signatures") != before
    refused = headwater(checkout, "declare", " ")
    assert refused.returncode == 1 and "one line that a reviewer can check" in refused.stderr
    rows = json.loads(headwater(checkout, "declare", "a sum is written out", "--json").stdout)
    assert [row["stage"] for row in rows] == ["document_signatures"]
    assert canonical(checkout, "document_signatures") == before
    assert "no stage's code differs" in headwater(checkout, "declare", "again").stdout


def test_without_a_commit_to_compare_with_it_says_so(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    done = headwater(checkout, "declare", "a reason")
    assert done.returncode == 1 and "no Git checkout that can be read" in done.stderr, done.stderr
