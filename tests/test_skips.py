"""A skip for want of a package is a failure where packages are installed, and a skip with its reason elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY
from tests.skips import VARIABLE

TESTS = """
import pytest

@pytest.fixture
def server():
    pytest.skip("no PostgreSQL here: apt-get install postgresql")

def test_on_a_server(server):
    pass

@pytest.mark.skipif(True, reason="needs root")
def test_as_root():
    pass
"""


@pytest.mark.parametrize(("packages", "counts"), [("installed", "1 skipped, 1 error"), ("", "2 skipped")])
def test_a_missing_package_fails_where_packages_are_installed(tmp_path: Path, packages: str, counts: str) -> None:
    (tmp_path / "test_asks.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-rs", "-c", "/dev/null", str(tmp_path)]
    environment = os.environ | {VARIABLE: packages, "PYTHONPATH": str(REPOSITORY), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert counts in done.stdout, done.stdout + done.stderr
    assert "apt-get install postgresql" in done.stdout
    assert "needs root" in done.stdout
    assert done.returncode == (1 if packages else 0)


def test_ci_installs_what_tests_ask_for() -> None:
    asked = set()
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "skip" in line and path.name != "test_skips.py":
                asked |= set(re.findall(r"apt-get install ([a-z][a-z-]+)", line))
    script = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    assert {"postgresql", "docker-compose", "strace"} <= asked
    assert {name for name in asked if not re.search(rf"\b{name}\b", script)} == set()
