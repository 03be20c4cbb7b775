"""Runs the real `headwater` command on a small site of our own, in a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent / "config"
REPOSITORY = Path(__file__).resolve().parents[2]
STAMP = "20260101T000000Z"


@dataclass
class Home:
    """A HEADWATER_HOME with a copy of the test configuration and the site's port."""

    root: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 280
    """Of one command."""
    repository: Path = REPOSITORY
    """Whose code runs."""

    @classmethod
    def create(cls, folder: Path, port: int) -> Home:
        """A fresh home; its configuration may be edited without touching another."""
        shutil.copytree(CONFIG, folder / "config")
        return cls(folder, port)

    def copy(self, folder: Path) -> Home:
        """The same state and configuration in another folder."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Home(folder, self.port, dict(self.environment))

    @property
    def state(self) -> Path:
        """$HEADWATER_HOME."""
        return self.root / "state"

    @property
    def config(self) -> Path:
        """$HEADWATER_CONFIG."""
        return self.root / "config"

    def env(self) -> dict[str, str]:
        """Environment of every command: no DAGSTER_HOME or store of the caller leaks in."""
        kept = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "HEADWATER_STORE")}
        return kept | {
            "HEADWATER_HOME": str(self.state),
            "HEADWATER_CONFIG": str(self.config),
            "HEADWATER_TEST_PORT": str(self.port),
            "PYTHONPATH": str(self.repository),
            **self.environment,
        }

    def popen(self, *arguments: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start `headwater ARGUMENTS`."""
        command = [sys.executable, "-m", "orchestration.cli", *arguments]
        return subprocess.Popen(command, env=self.env(), cwd=self.repository, text=True, **kwargs)

    def headwater(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `headwater ARGUMENTS`; its exit code must be `expect` (None: any)."""
        process = self.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=self.timeout_s)
        assert expect is None or process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, expect: int | None = 0) -> Any:
        """The JSON that `headwater ARGUMENTS --json` prints."""
        return json.loads(self.headwater(*arguments, "--json", expect=expect).stdout)

    def versions(self) -> dict[str, str]:
        """`asset[partition]` -> data version of everything on main."""
        found = self.json("status", expect=None)["items"]
        return {f"{i['asset']}[{i['partition'] or ''}]": i["version"] for i in found if i["version"]}

    def states(self) -> dict[str, str]:
        """`asset[partition]` -> fresh, stale, missing or history."""
        found = self.json("status", expect=None)["items"]
        return {f"{i['asset']}[{i['partition'] or ''}]": i["state"] for i in found}

    def edit_recipe(self, recipe: str, before: str, after: str) -> None:
        """Replace one piece of text in a recipe file; it must be there."""
        path = self.config / "recipes" / f"{recipe}.toml"
        text = path.read_text(encoding="utf-8")
        assert before in text, f"{before!r} is not in {path}"
        path.write_text(text.replace(before, after), encoding="utf-8")
