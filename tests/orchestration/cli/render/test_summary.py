"""The last lines of a run tell a person who has no `headwater` on PATH how to get it there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestration.cli.render.summary import summary
from orchestration.identity.catalog import Catalog

HOW = "on PATH in this shell: `source"


def last_lines(capsys: pytest.CaptureFixture[str]) -> str:
    workplace = SimpleNamespace(store_place="store.git", home=Path("home"), store=None)
    summary(workplace, Catalog("0" * 40, {}), [], 1.0, as_json=False)
    return capsys.readouterr().out


def test_a_shell_without_it_is_told_how(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    told = last_lines(capsys)
    assert HOW in told
    activate = told.partition(HOW)[2].partition("`")[0].strip()
    assert (Path.cwd() / activate).parent == Path(sys.executable).parent


def test_a_shell_with_it_is_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert HOW not in last_lines(capsys)


def test_another_installation_on_path_is_not_this_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "headwater"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert HOW in last_lines(capsys)
