"""Every source kind on real, damaged and large samples: documents out, and what was rejected with which reasons.

    python -m tests.campaigns.source_kinds     a few minutes; writes docs/results/sources.json

Needs apt-get, dpkg-deb and pip with their usual indexes, once. Each sample is read in a process of its own, so
that its peak of memory is its own. The samples of Wikipedia dumps were written for the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from tests.campaigns.source_samples import ROOT, Sample, damaged_samples, large_samples, obtain, real_samples

CODE = ("assets/sources", "assets/documents/extraction.py", "tests/campaigns/source_kinds.py")
MAX_PEAK_MIB = 450
"""Of a process that reads: 145 for its libraries (350 with `datasets`), 80 for a run of rows, the rest for records."""
TEXTS = 2000  # documents of a large sample whose text is extracted; the others are counted as kept


def read(sample: Sample, folder: Path) -> dict[str, Any]:
    """Capture a sample, extract its texts, and count."""
    from assets.build import SilentProgress
    from assets.documents.extraction import Extraction, extract
    from assets.sources.config import SourceConfig
    from assets.sources.crawl import capture_source
    from assets.sources.warc import iter_payloads
    from tests.builds import segment_of

    output = folder / "output"
    output.mkdir()
    started = time.process_time()
    with sample.source() as table:
        source = SourceConfig.model_validate(table).root
        summary = capture_source(source, f"{sample.name}@20260101T000000Z", output, folder / "work", SilentProgress())
    cpu_s = time.process_time() - started
    peak_mib = _peak_mib()
    segment = segment_of(output, "raw_crawl", f"{sample.name}@20260101T000000Z")
    reasons = segment.table("captures", ["url", "drop_reason"]).to_pylist()
    kept = [row["url"] for row in reasons if row["drop_reason"] is None]
    rejected = Counter(row["drop_reason"] for row in reasons if row["drop_reason"])
    documents, characters = len(kept), 0
    for row, payload in iter_payloads(segment, set(kept[:TEXTS])):
        text = extract(payload, row["content_type"], source.format, Extraction())
        characters += len(text.text)
        if text.drop_reason:
            documents -= 1
            rejected[text.drop_reason] += 1
    return {
        "kind": sample.kind,
        "sample": sample.what,
        "records": len(reasons),
        "documents": documents,
        "rejected": dict(sorted(rejected.items())),
        "not_taken": summary["not_taken"],
        "characters": characters,
        "read_cpu_s": round(cpu_s, 2),
        "peak_mib": round(peak_mib),
    }


def _peak_mib() -> float:
    """Peak resident memory of this program alone: getrusage would count what the parent had before it started us."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM: the peak of memory cannot be measured here")
    return int(found[1]) / 1024


def main() -> int:
    """All samples; exits 1 where one gives too few documents, rejects nothing that is broken, or takes too much memory."""
    cache = Path(tempfile.gettempdir()) / "headwater-source-samples"
    obtain(cache)
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as made:
        samples = [*real_samples(cache, Path(made)), *damaged_samples(cache, Path(made)), *large_samples(Path(made))]
        for sample in samples:
            with tempfile.TemporaryDirectory() as folder:
                request = json.dumps({**sample.__dict__, "serve": str(sample.serve) if sample.serve else None})
                command = [sys.executable, "-m", "tests.campaigns.source_kinds", folder]
                done = subprocess.run(command, input=request, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                problems.append(f"{sample.name}: {done.stderr[-600:]}")
                continue
            row = json.loads(done.stdout)
            rows.append(row)
            print(
                f"{row['kind']:<13} {row['sample']:<50} {row['documents']:>7,} of {row['records']:>7,} {row['rejected']}",
                flush=True,
            )
            if row["documents"] < sample.at_least:
                problems.append(
                    f"{sample.name}: {row['documents']} documents, at least {sample.at_least} were expected"
                )
            if row["peak_mib"] > MAX_PEAK_MIB:
                problems.append(f"{sample.name}: {row['peak_mib']} MiB at its peak, at most {MAX_PEAK_MIB} are allowed")
            if sample.name.startswith("bad-") and len(row["rejected"]) < 2:
                problems.append(f"{sample.name}: rejected only {row['rejected']}")
    for problem in problems:
        print(f"PROBLEM {problem}")
    print(f"{len(rows)} samples, {len(problems)} problems (goal: 0)")
    return finish(result_of(rows, {"problems": problems}))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    goals = [
        Goal("problems", len(figures["problems"]), "<=", 0, ("problems", "documents", "rejected")),
        Goal("MiB of a process at its peak", max(row["peak_mib"] for row in rows), "<=", MAX_PEAK_MIB, ("peak_mib",)),
    ]
    not_judged = why("size of the sample", "records", "characters", "not_taken") | why(
        "no limit was asked for", "read_cpu_s"
    )
    return Result("sources", CODE, goals, rows, figures, not_judged)


def one(folder: Path) -> int:
    """Read the sample on standard input."""
    request = json.load(sys.stdin)
    serve = Path(request.pop("serve")) if request["serve"] else request.pop("serve")
    json.dump(read(Sample(**request, serve=serve), folder), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(one(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
