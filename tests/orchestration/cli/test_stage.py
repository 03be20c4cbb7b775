"""`headwater stage`: recipe tables, overrides and errors of the command; the stages have tests of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assets.documents.recipe import Filters
from orchestration.cli.app import app
from orchestration.cli.stage import read_table
from orchestration.config import REPOSITORY, ConfigError

SAMPLES = REPOSITORY / "docs" / "samples"


def run(*arguments: str | Path, expect: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["stage", *map(str, arguments)])
    assert result.exit_code == expect, f"{result.output}\n{result.stderr}"
    return result.stdout, result.stderr


def test_the_stages_follow_each_other_on_plain_files(tmp_path: Path) -> None:
    run("extract", "--input", SAMPLES / "pages.jsonl", "--output", tmp_path, "--workers", "1")
    out, _ = run("filter", "--input", tmp_path / "documents.jsonl", "--output", tmp_path, "--json")
    summary = json.loads(out)
    assert (summary["documents"], summary["kept"], summary["output"]) == (3, 3, str(tmp_path))
    out, _ = run("dedup", "--input", tmp_path / "kept.jsonl", "--output", tmp_path)
    assert "dedup: documents 3, kept 3, exact duplicates 0, near duplicates 0" in out
    assert (tmp_path / "clusters.tsv").read_text() == "chair-en\tchair-en\nmill-en\tmill-en\nmill-zh\tmill-zh\n"


def test_dedup_goes_on_from_its_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first, second, gone = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "gone.txt"
    lines = (SAMPLES / "texts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    first.write_text("".join(lines[::2]), encoding="utf-8")
    second.write_text("".join(lines[1::2]), encoding="utf-8")
    run("dedup", "--input", first, "--output", tmp_path / "one", "--state", state)
    gone.write_text("note\n")
    out, _ = run("dedup", "--input", second, "--output", tmp_path / "two", "--state", state, "--remove", gone, "--json")
    summary = json.loads(out)
    assert (summary["documents"], summary["near_duplicates"]) == (len(lines) - 1, 1)
    whole = tmp_path / "whole.jsonl"
    whole.write_text("".join(line for line in lines if '"note"' not in line), encoding="utf-8")
    run("dedup", "--input", whole, "--output", tmp_path / "afresh")
    assert (tmp_path / "two/clusters.tsv").read_text() == (tmp_path / "afresh/clusters.tsv").read_text()


def test_settings_override_the_recipe_and_are_validated(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[filters]\nkeep_languages = ["zh"]\n[filters.zh]\nmin_characters = 7\n')
    table: Filters = read_table(
        str(recipe), "filters", Filters, ["filters.zh.max_characters=9", "filters.keep_languages=['zh', 'fr']"]
    )
    assert (table.zh.min_characters, table.zh.max_characters, table.keep_languages) == (7, 9, ("zh", "fr"))
    assert read_table(str(recipe), "filters", Filters, None).keep_languages == ("zh",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("filters.en.min_charcters=3", r"mine.toml with --set: filters.en.min_charcters: unknown key; known keys here"),
        ("filters.en.min_characters=many", "filters.en.min_characters: Input should be a valid integer"),
        ("dedup.threshold=1", "must be TABLE.KEY=VALUE with the table filters"),
        ("filters.language_score_min", "must be TABLE.KEY=VALUE"),
        ("filters=3", "must be TABLE.KEY=VALUE"),
        ("filters.keep_languages.zh=3", "keep_languages is a value, not a table"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, setting: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text("[filters]\n")
    with pytest.raises(ConfigError, match=message):
        read_table(str(tmp_path / "mine.toml"), "filters", Filters, [setting])


def test_errors_are_one_message_and_exit_code_1(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "text": "x"}\nnot json\n')
    for arguments, message in (
        (("filter", "--input", bad, "--output", tmp_path / "out"), f"{bad} line 2: not valid JSON"),
        (("filter", "--input", tmp_path / "none", "--output", tmp_path / "out"), "no such file or folder"),
        (("filter", "--input", bad, "--output", tmp_path / "out", "--recipe", "none"), "none.toml: no such file"),
    ):
        _, said = run(*arguments, expect=1)
        assert said.startswith("error: ") and message in said


def test_tokenize_without_a_published_tokenizer_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    _, said = run("tokenize", "--input", SAMPLES / "texts.jsonl", "--output", tmp_path / "out", expect=1)
    assert "no tokenizer is published in the store yet: name one with --tokenizer FILE" in said
