"""kill -9 at random steps, resume, kill again, resume again; then onto other layouts: is it the same run?

    make campaign-resume      prints the table, writes docs/results/resume.json

Chains of kills on one layout must end with losses and weights bit-identical to a run that nobody disturbed, and every
step must have read the same sequences in the same order. Then one run is killed and moved: one process, FSDP on two
ranks, tensor parallel, a pipeline, one process again. There the sequences must be the same and the losses within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assets.build import BuildError, SilentProgress
from benchmarks.results import Goal, Result, finish, why
from orchestration.launch import program
from orchestration.launch.trainer import NO_RESTARTS, launch
from tests.campaigns.killing import killer_at_step, victims
from tests.training import tiny
from tests.training.running import exact, wait_until, weights

CODE = ("training", "orchestration/launch", "tests/campaigns/resume.py")
STEPS, BATCH = 24, 4
LAYOUTS: list[dict[str, int]] = [{}, {"dp_shard": 2}, {"tp": 2}, {"pp": 2}, {"dp_replicate": 2}, {}]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One start of the training program."""

    chain: str
    layout: str
    resumed_at: int
    killed_after_step: int | None
    killed: bool
    orphans: int


@dataclass(frozen=True)
class Verdict:
    """What a chain came to, against the undisturbed run."""

    chain: str
    kills: int
    same_sequences: bool
    losses_bit_identical: bool
    weights_bit_identical: bool
    largest_loss_difference: float


def request_of(data: Path, output: Path, layout: dict[str, int]) -> dict[str, Any]:
    """24 steps, three of them published, and a rolling checkpoint every second step."""
    schedule = {"total_steps": STEPS, "warmup_steps": 2, "decay_steps": 6, "peak_lr": 0.01, "min_lr_ratio": 0.1}
    return tiny.tiny_request(
        data, output, schedule=schedule, checkpoint_steps=[5, 16, STEPS], rolling_every_steps=2, parallelism=layout
    )


def run_once(
    folder: Path, data: Path, layout: dict[str, int], kill_at: int | None, draw: random.Random, chain: str
) -> Row:
    """Start the program in a folder that may hold an interrupted run; kill it after a step, or let it end."""
    output, record = folder / "out", folder / f"record-{len(list(folder.glob('record-*'))):02d}"
    record.mkdir(parents=True)
    os.environ["RECORD_INTO"] = str(record)
    request = tiny.write_request(folder, request_of(data, output, layout))
    on_poll = killer_at_step(request, output, kill_at, draw) if kill_at else lambda: None
    killed = False
    try:
        launch(request, folder, SilentProgress(), NO_RESTARTS, on_poll=on_poll)
    except BuildError as error:
        if kill_at is None or not ("was killed" in str(error) or "connection" in str(error).lower()):
            raise
        killed = True
    wait_until(lambda: not victims(request), 10)
    attempts = (output / "attempts.jsonl").read_text().splitlines()
    resumed_at = json.loads(attempts[-1])["step"]
    return Row(chain, json.dumps(layout), resumed_at, kill_at, killed, len(victims(request)))


def sequences_read(folder: Path) -> dict[int, list[str]]:
    """Step -> the sequences that its last attempt read, over all ranks that read different ones."""
    steps: dict[int, list[str]] = {}
    for record in sorted(folder.glob("record-*")):
        attempt: dict[int, set[tuple[str, ...]]] = {}
        for path in sorted(record.glob("rank-*.jsonl")):
            of_rank: dict[int, list[str]] = {}
            for line in path.read_text().splitlines():
                content = json.loads(line)
                of_rank.setdefault(content["step"], []).extend(content["sequences"])
            for step, sequences in of_rank.items():
                attempt.setdefault(step, set()).add(tuple(sequences))  # tensor-parallel ranks read the same ones
        steps |= {step: sorted(s for part in parts for s in part) for step, parts in attempt.items()}
    return steps


def judge(chain: str, folder: Path, base: Path, kills: int) -> Verdict:
    """Compare a chain that has ended with the undisturbed run."""
    ours, theirs = exact(folder / "out"), exact(base / "out")
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1)), "a step is lost or recorded twice"
    return Verdict(
        chain,
        kills,
        sequences_read(folder) == sequences_read(base),
        ours == theirs,
        weights(folder / "out") == weights(base / "out"),
        max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)),
    )


def one_layout(folder: Path, data: Path, chain: str, kills: int, draw: random.Random) -> list[Row]:
    """Kills at ascending random steps, then to the end."""
    steps = sorted(draw.sample(range(2, STEPS - 1), kills))
    return [run_once(folder, data, {}, step, draw, chain) for step in [*steps, None]]


def other_layouts(folder: Path, data: Path, chain: str, draw: random.Random) -> list[Row]:
    """A kill on each layout but the last, which trains to the end."""
    last = len(LAYOUTS) - 1
    kill_at = [3 + 4 * number + draw.randrange(2) if number < last else None for number in range(len(LAYOUTS))]
    return [run_once(folder, data, layout, step, draw, chain) for layout, step in zip(LAYOUTS, kill_at, strict=True)]


def campaign(folder: Path, chains: int, kills: int, seed: int) -> tuple[list[Row], list[Verdict]]:
    """All rows and verdicts; prints them as they come."""
    program.PROGRAM = "tests.campaigns.recording_main"
    data, base = folder / "data", folder / "undisturbed"
    data.mkdir()
    tiny.write_order(data, tiny.write_tokens(data), sequences=STEPS * BATCH)
    draw, rows, verdicts = random.Random(seed), [], []
    rows.append(run_once(base, data, {}, None, draw, "undisturbed"))
    named = [(f"one layout, {number + 1}", one_layout) for number in range(chains)]
    for chain, work in [*named, ("other layouts", None)]:
        here = folder / chain.replace(" ", "-").replace(",", "")
        found = work(here, data, chain, kills, draw) if work else other_layouts(here, data, chain, draw)
        verdicts.append(judge(chain, here, base, sum(row.killed for row in found)))
        rows += found
        print("\n".join(f"{r.chain:<16} {r.layout:<20} from {r.resumed_at:>2}  {r.killed_after_step}" for r in found))
        print(verdicts[-1], flush=True)
    return rows, verdicts


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    chains = figures["chains"]
    exact = [chain for chain in chains if chain["chain"] != "other layouts"]
    unlike = [c for c in exact if not (c["losses_bit_identical"] and c["weights_bit_identical"])]
    other = [c for c in chains if not c["same_sequences"]]
    loss = max(chain["largest_loss_difference"] for chain in chains)
    goals = [
        Goal("chains that do not read the same sequences in the same order", len(other), "<=", 0, ("chains",)),
        Goal("one layout: chains without bit-identical losses and weights", len(unlike), "<=", 0, ("chains",)),
        Goal("other layouts: largest difference of a loss", loss, "<=", TOLERANCE, ("chains",)),
        Goal("kills in each chain, fewest", min(chain["kills"] for chain in chains), ">=", 2, ("chains",)),
        Goal("processes orphaned", sum(row["orphans"] for row in rows), "<=", 0, ("orphans",)),
    ]
    not_judged = why("where the kill came", "resumed_at", "killed_after_step") | why("of this execution", "seconds")
    return Result("resume", CODE, goals, rows, figures, not_judged)


def main() -> int:
    """Run, write the result; exit 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chains", type=int, default=3)
    parser.add_argument("--kills", type=int, default=4, help="in each chain")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, verdicts = campaign(Path(folder), arguments.chains, arguments.kills, arguments.seed)
    figures = {"chains": [asdict(verdict) for verdict in verdicts], "seconds": round(time.monotonic() - started)}
    return finish(result_of([asdict(row) for row in rows], figures))


if __name__ == "__main__":
    sys.exit(main())
