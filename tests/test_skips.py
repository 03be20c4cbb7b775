"""A skip for want of a package is a failure where packages are installed, and a skip with its reason elsewhere."""

from __future__ import annotations

import os
import re
import shutil
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


def test_the_command_installs_what_tests_ask_for() -> None:
    asked = set()
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "skip" in line and path.name != "test_skips.py":
                asked |= set(re.findall(r"apt-get install ([a-z][a-z-]+)", line))
    script = (REPOSITORY / "deploy/with-test-packages.sh").read_text(encoding="utf-8")
    assert {"postgresql", "docker-compose", "strace"} <= asked
    assert {name for name in asked if not re.search(rf"\b{name}\b", script)} == set()


def test_what_was_not_run_is_counted_with_the_packages_it_needs(tmp_path: Path) -> None:
    (tmp_path / "test_asks.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(
        "from tests.skips import count_skips\n\n\ndef pytest_terminal_summary(terminalreporter):\n"
        "    count_skips(terminalreporter)\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", str(tmp_path)]
    environment = os.environ | {VARIABLE: "", "PYTHONPATH": str(REPOSITORY), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 tests need what is not installed here: apt-get install postgresql" in done.stdout, done.stdout


def test_the_command_goes_on_without_packages_that_it_may_not_install(tmp_path: Path) -> None:
    """On a machine with neither the tools nor apt-get: it says what is skipped, and runs the command."""
    for tool in ("bash", "id", "env", "printenv"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    script = REPOSITORY / "deploy/with-test-packages.sh"
    done = subprocess.run(
        ["bash", str(script), "bash", "-c", f"echo ran ${{{VARIABLE}:-without}}"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tests that need git git-lfs strace docker-compose" in done.stdout
    assert done.stdout.endswith("ran without\n")
