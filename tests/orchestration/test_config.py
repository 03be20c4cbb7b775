"""Configuration errors name the file, the key and the rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestration.config import ConfigError, load_config
from orchestration.stages import BY_NAME
from tests.end_to_end.harness import CONFIG, REPOSITORY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWATER_TEST_PORT", "1234")
    return Path(shutil.copytree(CONFIG, tmp_path / "config"))


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_the_shipped_configuration_is_valid() -> None:
    config = load_config(REPOSITORY / "config")
    assert "demo" in config.runs
    assert set(config.sources) >= {"debian-handbook", "python-code"}


def test_an_unknown_key_is_named_with_the_known_ones(folder: Path) -> None:
    edit(folder / "recipes/curation.toml", "[dedup]", "[dedup]\ntreshold = 0.7")
    with pytest.raises(
        ConfigError, match=r"curation\.toml: dedup\.treshold: unknown key; known keys here: .*threshold"
    ):
        load_config(folder)


def test_an_unknown_table_is_named(folder: Path) -> None:
    edit(folder / "recipes/curation.toml", "[dedup]", "[deduplication]\nx = 1\n[dedup]")
    with pytest.raises(ConfigError, match=r"unknown table \[deduplication\]; known tables: .*dedup"):
        load_config(folder)


def test_a_broken_file_a_missing_model_and_a_missing_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "recipes/tiny.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n[training\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tiny\.toml: not valid TOML"):
        load_config(folder)
    path.write_text(text.replace('file = "tiny"', 'file = "huge"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model\.file: no huge\.toml.*known models: tiny"):
        load_config(folder)
    path.write_text(text, encoding="utf-8")
    monkeypatch.delenv("HEADWATER_TEST_PORT")
    with pytest.raises(ConfigError, match="needs the environment variable HEADWATER_TEST_PORT"):
        load_config(folder)


def test_a_missing_folder_and_a_missing_file(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_config(tmp_path / "nowhere")
    (folder / "sources.toml").unlink()
    with pytest.raises(ConfigError, match=r"sources\.toml: no such file"):
        load_config(folder)


def test_tables_of_a_stage_hold_its_defaults_and_its_source_only(folder: Path) -> None:
    config = load_config(folder)
    tables = config.tables(BY_NAME["raw_crawl"], "site@20260101T000000Z")
    assert list(tables) == ["sources"]
    assert tables["sources"]["kind"] == "web"
    assert "threshold" in config.tables(BY_NAME["duplicate_clusters"], None)["dedup"]
    with pytest.raises(ConfigError, match="source 'gone' of partition"):
        config.tables(BY_NAME["raw_crawl"], "gone@20260101T000000Z")
