"""Code hashes that were declared to give the same output: equivalences.toml, reviewed like code.

A refactor that changes what is computed in no case can still change the normal form of the code. `headwater
equivalence declare REASON` compares the working tree with the last commit and writes a row for each stage whose hash
differs; from then on what the old code built counts as built by the new.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from orchestration.config import REPOSITORY, ConfigError
from orchestration.identity.code_version import PROJECT_PACKAGES, code_version
from orchestration.stages import STAGES, Stage

EQUIVALENCES = Path("orchestration/equivalences.toml")


@dataclass(frozen=True)
class Equivalence:
    """One row: what `new` builds counts as built by `old`."""

    stage: str
    old: str
    new: str
    reason: str


def read_equivalences(path: Path) -> list[Equivalence]:
    """The rows of the file, none if it does not exist; ConfigError if one is not whole or gives no reason."""
    if not path.exists():
        return []
    found = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalence", []):
        if set(entry) != {"stage", "old", "new", "reason"} or not entry["reason"].strip():
            raise ConfigError(f"{path}: each [[equivalence]] has stage, old, new and a reason; found {entry}")
        found.append(Equivalence(**entry))
    return found


@cache
def _declared(path: Path) -> dict[tuple[str, str], str]:
    return {(row.stage, row.new): row.old for row in read_equivalences(path)}


@cache
def canonical_code(stage: Stage, code: str) -> str:
    """The oldest code hash that was declared equal to `code`."""
    declared = _declared(REPOSITORY / EQUIVALENCES)
    seen = {code}
    while (stage.name, code) in declared:
        code = declared[stage.name, code]
        if code in seen:
            raise ConfigError(f"{EQUIVALENCES}: the equivalences of {stage.name} go in a circle at {code}")
        seen.add(code)
    return code


def codes() -> dict[str, str]:
    """Stage -> code hash of the working tree, as `headwater equivalence codes --json` prints it."""
    return {stage.name: code_version(stage).digest for stage in STAGES}


def declare(reason: str) -> list[Equivalence]:
    """Append a row for every stage whose code hash differs from the last commit's; the rows that were written."""
    if not reason.strip() or "\n" in reason:
        raise ConfigError("the reason is one line that a reviewer can check: what was refactored, what was compared")
    before, after = _codes_of_last_commit(), codes()
    rows = [
        Equivalence(stage.name, before[stage.name], after[stage.name], reason.strip())
        for stage in STAGES
        if stage.name in before
        and canonical_code(stage, after[stage.name]) != canonical_code(stage, before[stage.name])
    ]
    with (REPOSITORY / EQUIVALENCES).open("a", encoding="utf-8") as file:
        file.write("".join(_as_toml(row) for row in rows))
    return rows


def _as_toml(row: Equivalence) -> str:
    quoted = {name: json.dumps(value, ensure_ascii=False) for name, value in vars(row).items()}
    return "\n[[equivalence]]\n" + "".join(f"{name} = {value}\n" for name, value in quoted.items())


def _codes_of_last_commit() -> dict[str, str]:
    """What the last commit's own program says of its own code."""
    archive = subprocess.run(["git", "archive", "HEAD", *PROJECT_PACKAGES], cwd=REPOSITORY, capture_output=True)
    if archive.returncode:
        said = archive.stderr.decode(errors="replace").strip()
        raise ConfigError(
            f"{REPOSITORY} is compared with its last commit, but is no Git checkout that can be read: {said}"
        )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        command = [sys.executable, "-m", "orchestration.cli", "equivalence", "codes", "--json"]
        environment = os.environ | {"PYTHONPATH": folder, "HEADWATER_HOME": str(Path(folder) / "home")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"the last commit cannot tell its code hashes: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)
