"""Random histories of crawls, edits, recipe changes and crashes: each must end in what a build from scratch gives.

    make campaign-histories                                1,000 histories, others every day; writes docs/results/histories.json
    python -m tests.campaigns.histories --seed 4711        one history again, by the seed that the campaign printed
    python -m tests.campaigns.histories --replay '{...}'   a shrunk one, by the line that the campaign printed

A failing history is shrunk (nights, changes, kills and crawls are left out while it still fails) before
it is printed. `--serve` answers one history a line on standard input, for tests/test_equality_law.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from tests.histories import replay
from tests.histories.world import ANCHOR, History, contains, random_history

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = (
    *("assets/sources", "assets/documents", "assets/dedup", "assets/tokenizer", "assets/delta_table.py"),
    *("orchestration/publish/publisher.py", "orchestration/store", "tests/campaigns/histories.py", "tests/histories"),
)
HISTORIES = 1000
SHRINKING_RUNS = 60


def run(history: History) -> dict[str, object]:
    """The outcome of one history as JSON."""
    _, outcome = replay.in_child(replay.run, history)
    return {"seed": history.seed, "problems": outcome.problems, "counts": outcome.counts + contains(history)}


def smaller(history: History) -> Iterator[History]:
    """Histories with one thing less, large things first."""
    nights = history.nights
    for i in reversed(range(1, len(nights))):
        yield replace(history, nights=nights[:i] + nights[i + 1 :])
    for i, night in enumerate(nights):
        for name in ("kills", "recipe", "fails", "changes", "crawl"):
            values = getattr(night, name)
            if name == "crawl" and i == 0:
                continue
            for j in reversed(range(len(values))):
                if name == "changes" and i == 0 and values[j][1] == ANCHOR:
                    continue
                less = replace(night, **{name: values[:j] + values[j + 1 :]})
                yield replace(history, nights=[*nights[:i], less, *nights[i + 1 :]])


def shrink(history: History) -> History:
    """A small history that fails as this one does, within a bounded number of runs."""
    runs, failure = 0, _kind_of_failure(history)
    while True:
        for candidate in smaller(history):
            runs += 1
            if runs > SHRINKING_RUNS:
                return history
            if _kind_of_failure(candidate) == failure:
                history = candidate
                break
        else:
            return history


def _kind_of_failure(history: History) -> str:
    """The first problem without its numbers; empty where there is none."""
    found = run(history)["problems"]
    assert isinstance(found, list)
    return re.sub(r"\d+", "n", str(found[0]))[:80] if found else ""


def serve() -> None:
    """Answer each history of standard input with its outcome."""
    replay.warm_up()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(History.from_json(line))), flush=True)


def explain(history: History) -> str:
    """How to see a failure again."""
    return f"python -m tests.campaigns.histories --replay '{history.to_json()}'"


def main() -> int:
    """Run the campaign or one history; exit 1 if any breaks the law."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--first-seed", type=int, help="default: the day's, so that every night draws new histories")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, help="run this one and print what it does")
    parser.add_argument("--replay", help="run this one")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    if options.seed is not None or options.replay:
        return one(History.from_json(options.replay) if options.replay else random_history(options.seed))
    first_seed = seed_of_day(datetime.now(UTC).date()) if options.first_seed is None else options.first_seed
    print(f"seeds {first_seed} to {first_seed + options.histories - 1}", flush=True)
    return campaign(options.histories, first_seed, options.processes)


def seed_of_day(day: date) -> int:
    """The first seed of a night's campaign: no day has one of another day's, nor of the suite's, which are small."""
    return day.toordinal() * HISTORIES


def one(history: History) -> int:
    """Run and tell one history."""
    for number, night in enumerate(history.nights):
        print(f"night {number + 1}: {night}")
    replay.warm_up()
    result = run(history)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return int(bool(result["problems"]))


class Server:
    """A process that runs histories, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.campaigns.histories", "--serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout

    def ready(self) -> None:
        """Wait until it has imported everything."""
        if json.loads(self.output.readline() or '""') != "ready":
            raise RuntimeError("the server of histories did not start: see its message above")

    def ask(self, history: History) -> None:
        """Hand it a history."""
        self.input.write(history.to_json() + "\n")
        self.input.flush()

    def answer(self) -> dict:
        """Its outcome."""
        return json.loads(self.output.readline())

    def close(self) -> None:
        """End it."""
        self.input.close()
        self.process.wait()


def campaign(histories: int, first_seed: int, processes: int) -> int:
    """Run histories of consecutive seeds on several processes, shrink what fails, write the table."""
    import selectors

    started = time.monotonic()
    servers = [Server() for _ in range(processes)]
    seeds = iter(range(first_seed, first_seed + histories))
    waiting, failed, counts = selectors.DefaultSelector(), [], Counter()
    for server in servers:
        server.ready()
        if (seed := next(seeds, None)) is not None:
            server.ask(random_history(seed))
            waiting.register(server.output, selectors.EVENT_READ, server)
    while waiting.get_map():
        for key, _ in waiting.select():
            result = key.data.answer()
            counts.update(result["counts"])
            if result["problems"]:
                failed.append(result["seed"])
                print(f"seed {result['seed']} FAILS: {result['problems'][0][-2000:]}", flush=True)
            elif counts["histories"] % 20 == 0:
                print(f"{counts['histories']} histories, last seed {result['seed']}: {len(failed)} differ", flush=True)
            if (seed := next(seeds, None)) is None:
                waiting.unregister(key.fileobj)
            else:
                key.data.ask(random_history(seed))
    for server in servers:
        server.close()
    if failed:
        replay.warm_up()
    smallest = {seed: explain(shrink(random_history(seed))) for seed in failed[:3]}
    for seed, line in smallest.items():
        print(f"seed {seed}, shrunk: {line}")
    write_table(histories, first_seed, failed, counts, started, processes)
    return int(bool(failed) or counts["histories"] < histories)


def write_table(
    histories: int, first_seed: int, failed: list[int], counts: Counter[str], started: float, processes: int
) -> None:
    """On the terminal, and (of at least half the campaign) docs/results/histories.json."""
    figures = {
        "histories": counts["histories"],
        "seeds": [first_seed, first_seed + histories - 1],
        "seeds_that_differ": failed,
        "contained": dict(sorted(counts.items())),
        "seconds": round(time.monotonic() - started),
        "processes": processes,
    }
    for name, count in sorted(counts.items()):
        print(f"{name:<28} {count:>8,}")
    print(f"{counts['histories']} histories in {figures['seconds']} s, {len(failed)} differ: {failed or ''}")
    finish(result_of([], figures), write=counts["histories"] >= HISTORIES // 2)  # a look is no result


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    differ = "random histories that do not end in the data versions of a build from scratch and as the model says"
    goals = [
        Goal(differ, len(figures["seeds_that_differ"]), "<=", 0, ("seeds_that_differ",)),
        Goal("random histories", figures["histories"], ">=", HISTORIES, ("histories",)),
    ]
    not_judged = why("what the histories held", "contained") | why(
        "of this execution: to run the same histories again", "seeds", "seconds", "processes"
    )
    return Result("histories", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
