"""docs/extending/evaluation.md, followed in a copy: a run that was finished before is scored, and nothing is trained again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from orchestration.identity.catalog import read_catalog, segment
from orchestration.store import open_store
from tests.end_to_end.harness import STAMP, Home
from tests.extending.guide import extended, passes, python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASSET = "in_context_copying"
RUN = f"tiny@{STAMP}"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended(tmp_path_factory.mktemp("extended"), "evaluation.md")


def test_checkpoints_that_were_there_are_scored_and_the_card_has_it(
    copy: Path, copy_of_built: Home, tmp_path: Path
) -> None:
    home = copy_of_built
    before = home.versions()
    home.repository = copy
    planned = {step["asset"] for step in home.json("plan", "--recipe", "tiny")["steps"]}
    assert planned == {ASSET, "release_card"}
    home.headwater("run", "--recipe", "tiny")

    # this process does not know the new asset: only the copy's own commands read it
    home.headwater("export", f"{ASSET}@{RUN}#copying", str(tmp_path / "copying.jsonl"))
    scores = [json.loads(line) for line in (tmp_path / "copying.jsonl").read_text("utf-8").splitlines()]
    catalog = read_catalog(store := open_store(str(home.state / "store.git")))
    assert [row["step"] for row in scores] == [1, 4, 8, 12]
    assert all(0 < row[name] < 2 * math.log(768) for row in scores for name in ("first_loss", "second_loss"))
    card = segment(store, catalog.commit, catalog.manifests["release_card", RUN]).path("card.md").read_text("utf-8")
    section = card.partition("### In context copying")[2].partition("\n## ")[0]
    assert f"{scores[-1]['first_loss'] - scores[-1]['second_loss']:.4g}" in section

    after = home.versions()
    assert {key for key in after if after[key] != before.get(key)} == {f"{ASSET}[{RUN}]", f"release_card[{RUN}]"}
    assert set(home.states().values()) == {"fresh"}


def test_graph_and_docs_take_it_in(copy: Path) -> None:
    assert python(copy, "docs/generate.py", "--check").returncode == 1
    assert python(copy, "docs/generate.py").returncode == 0
    assert ASSET in (copy / "README.md").read_text("utf-8")
    assert "first_loss" in (copy / "docs/data-contract.md").read_text("utf-8")
    assert python(copy, "-m", "pytest", "-q", "tests/test_graph.py", "--snapshot-update").returncode == 0
    passes(copy, "tests/test_graph.py", "tests/test_import_rules.py", "tests/assets/evaluation/test_release_card.py")
