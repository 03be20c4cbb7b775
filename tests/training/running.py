"""Runs of the training program for tests: start one, stop it hard, read what it left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from assets.build import SilentProgress
from orchestration.launch import program
from orchestration.launch.trainer import LocalTrainer
from tests.training.tiny import write_request

EXACT = ("step", "loss", "gradient_norm", "learning_rate", "tokens_seen", "channel_loss")
STOPPING = "tests.training.stopping_main"


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl."""
    path = output / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def exact(output: Path) -> list[dict[str, Any]]:
    """What must be the same bit for bit in every line of metrics.jsonl."""
    return [{name: line[name] for name in EXACT} for line in read_metrics(output)]


def weights(output: Path) -> dict[str, str]:
    """SHA-256 of the export of each complete checkpoint, as the program wrote it down."""
    markers = sorted(output.glob("checkpoints/*/complete.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in markers}


def train(folder: Path, request: dict[str, Any], monkeypatch: pytest.MonkeyPatch | None = None, **stop: str) -> None:
    """Run a request; with STOP_... settings, through the program that stops itself."""
    if monkeypatch and stop:
        monkeypatch.setattr(program, "PROGRAM", STOPPING)
        for name, value in stop.items():
            monkeypatch.setenv(name, value)
    try:
        LocalTrainer().run(write_request(folder, request), folder, SilentProgress())
    finally:
        if monkeypatch:
            monkeypatch.undo()


def ranks_of(marker: str) -> list[psutil.Process]:
    """Living processes whose command line names `marker`."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and marker in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until(condition: Any, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
