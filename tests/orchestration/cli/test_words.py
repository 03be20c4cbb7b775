"""Words typed wrong: one sentence with the remedy, and no traceback. Lists say when they are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.store import open_store
from tests.end_to_end.harness import CONFIG


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.setenv("HEADWATER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HEADWATER_TEST_PORT", "9")
    monkeypatch.delenv("HEADWATER_STORE", raising=False)
    (tmp_path / "state").mkdir()
    store = open_store(str(tmp_path / "state/store.git"))
    for number in range(3):
        store.commit("main", {"dedup/corpus/a": str(number).encode()}, message=f"commit {number}")
    return tmp_path / "state"


def typed(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("log", "--limit", "-3"), 2, "--limit"),
        (("lineage", "x", "--limit", "0"), 2, "--limit"),
        (("gc", "--keep-days", "-1"), 2, "greater than or equal to 0"),
        (("gc", "--keep-days", "nan"), 2, "--keep-days"),
        (("gc", "--keep-days", "inf"), 2, "no number of days between 0 and 36,500"),
        (("gc", "--keep-history-days", "nan"), 2, "--keep-history-days"),
        (("log", "nowhere/at/all"), 1, "nothing under 'nowhere/at/all' was ever published on main; paths begin"),
        (("log", "--ref", "nowhere"), 1, "'nowhere' is no branch, tag or commit"),
        (("--version",), 0, "headwater "),
    ],
)
def test_wrong_words_get_a_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    assert typed(*arguments)[0] == code
    assert said in typed(*arguments)[1]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HEADWATER_HOME", "/proc/x", "/proc/x lies where no folder can be made. Set HEADWATER_HOME to"),
        ("HEADWATER_HOME", "/dev/null/x", "is or lies in a file, not a folder. Set HEADWATER_HOME to a folder"),
        ("HEADWATER_PROFILE", "locl", "HEADWATER_PROFILE=locl: there is no"),
        ("HEADWATER_PROFILE", "locl", "known profiles: local"),
    ],
)
def test_wrong_places_get_a_sentence(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    code, message = typed("status")
    assert code == 1 and said in message


def test_a_log_that_is_cut_says_so() -> None:
    assert "there are older ones (`--limit N`)" in typed("log", "--limit", "2")[1]
    assert "older" not in typed("log", "--limit", "20")[1]
    found = json.loads(CliRunner().invoke(app, ["log", "dedup/", "--limit", "2", "--json"]).stdout)
    assert len(found["commits"]) == 2 and found["more"]
    assert not json.loads(CliRunner().invoke(app, ["log", "dedup/", "--limit", "3", "--json"]).stdout)["more"]
