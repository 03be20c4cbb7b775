"""The contract tests and fault tests of the lakeFS store, with its bytes on a real S3 server: Ceph's.

    make campaign-s3         root, and apt-get install radosgw ceph-mon ceph-osd ceph-mgr ceph-common uuid-runtime curl

moto, which the ordinary tests use, accepts any key and any checksum; Ceph refuses wrong keys and does
conditional writes. Writes docs/results/store_s3.json.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from tests.orchestration.store.lakefs.lakefs_server import EXTERNAL_S3

ROOT = Path(__file__).resolve().parents[2]
CODE = ("orchestration/store", "tests/campaigns/s3.py", "tests/orchestration/store")
URL = "http://127.0.0.1:7480"


def main() -> int:
    """Start Ceph, run tests/orchestration/store against it; exits 1 if a test fails."""
    if not shutil.which("radosgw") or not shutil.which("ceph-mon"):
        print("this campaign needs Ceph: see the first lines of tests/campaigns/s3.py")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        ceph = subprocess.Popen(
            [ROOT / "tests/campaigns/ceph.sh", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert ceph.stdin and ceph.stdout
        try:
            if ceph.stdout.readline().strip() != "ready":
                print("Ceph did not start")
                return 1
            start_s = time.monotonic() - started
            print(f"Ceph answers after {start_s:.0f} s", flush=True)
            version = subprocess.run(["radosgw", "--version"], capture_output=True, text=True).stdout.split(" (")[0]
            command = [
                sys.executable,
                "-m",
                "pytest",
                "tests/orchestration/store",
                "-k",
                "lakefs",
                "-n",
                "2",
                "--timeout=1200",
            ]
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, EXTERNAL_S3: URL}, capture_output=True, text=True
            )
        finally:
            ceph.stdin.close()
            ceph.wait()
    print(done.stdout[-3000:])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)}
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    figures = {"server": version, "start_s": round(start_s), "passed": 0, **counts, "failures": failed}
    status = finish(result_of([], figures))
    return status or int(done.returncode != 0)


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    failed = len(figures["failures"]) + figures.get("error", 0) + figures.get("errors", 0)
    of = ("failed", "error", "errors")
    goals = [
        Goal("contract tests that failed", failed, "<=", 0, of),
        Goal("contract tests that passed", figures["passed"], ">=", 51, ("passed",)),
    ]
    not_judged = why("of this execution", "start_s") | why("named by pytest -rs", "skipped")
    return Result("store_s3", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
