"""Runs the driver's steps with bars in the terminal, and the demo around it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO, cast

from assets.build import SilentProgress
from orchestration.cli.render.summary import summary
from orchestration.cli.render.takedown import named
from orchestration.graph.unfinished import abandon
from orchestration.identity.catalog import read_catalog
from orchestration.process.interrupts import interrupts_are_never_lost
from orchestration.process.progress import terminal
from orchestration.process.terminal import console
from orchestration.process.workplace import Workplace
from orchestration.run.driver import Driver, Options
from orchestration.run.failures import held_back
from orchestration.run.withdrawal import withdraw
from orchestration.upkeep.compaction import compact
from orchestration.upkeep.taken_down import by_partition, taken_down

DEMO_RECIPE = "demo"


def run_to_date(workplace: Workplace, options: Options, *, as_json: bool) -> None:
    """Execute every due step; say so when there is none. Ends with the summary table.

    A step that fails stops only what needs it; RunFailedError tells of all of them at the end.
    """
    out = console(as_json)
    driver = Driver(workplace, options, lambda words: out.print(words, highlight=False))
    started, done = time.monotonic(), []
    with interrupts_are_never_lost(), driver.exclusive(), terminal(out), _quiet_libraries():
        abandon(workplace, options.abandon)
        for source in options.recrawl:
            driver.demo_pages.require(source)  # before anything of it is withdrawn or begun
        for source, crawls in withdraw(workplace, options.recrawl).items():
            words = f"{source}: something of it was taken down; its {crawls} crawl(s) leave main, it is crawled anew"
            out.print(words, highlight=False)
        for step in driver.steps():
            if step.assets:
                out.print(f"[bold]{step.job}[/] {step.partition or ''}", highlight=False)
                if driver.attempt(step):
                    done.append(step)
                else:
                    out.print("  [bold red]failed[/]: told at the end; what does not need it goes on")
        catalog = read_catalog(workplace.store)
        if done:
            gone = by_partition(taken_down(workplace.store))
            compact(workplace.store, catalog, workplace.home, SilentProgress(), without=gone)
    for key in driver.held_back:
        out.print(held_back(key), highlight=False)
    if not done and not driver.failures and not driver.waiting:
        out.print("Everything is up to date: nothing to do.")
    gone = taken_down(workplace.store)
    summary(workplace, catalog, done, time.monotonic() - started, gone, as_json=as_json)
    named(gone, out)
    driver.raise_failures()


def run_demo(workplace: Workplace, *, as_json: bool) -> None:
    """Obtain the demo sources, then the same as `headwater run`, which serves them."""
    from orchestration.run.demo import obtain, obtained, refuse_busy_port
    from orchestration.run.demo_site import demo_port, serves

    port = demo_port()  # before the configuration, which has it in its URLs
    options = Options(DEMO_RECIPE)
    if list(Driver(workplace, options).due_crawls()):
        served = obtained(workplace.home)
        if served is None or not serves(served, port):
            refuse_busy_port(port, f"HEADWATER_DEMO_PORT={port + 1} make demo")  # before the download
        with terminal(console(as_json)) as bars:
            bars.start("demo sources")
            obtain(workplace.home, bars)
            bars.finish("obtained")
    run_to_date(workplace, options, as_json=as_json)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries that log to the terminal would tear the bars apart: warnings and above only."""
    import logging
    import warnings

    loguru: Any = sys.modules.get("loguru")
    if loguru:
        loguru.logger.remove()
        loguru.logger.add(sys.stderr, level="WARNING")
    previous = logging.root.level
    logging.root.setLevel(logging.WARNING)
    with warnings.catch_warnings(), redirect_stderr(cast(TextIO, _WithoutLogFailures(sys.stderr))):
        warnings.simplefilter("ignore")
        yield
    logging.root.setLevel(previous)


class _WithoutLogFailures:
    """Standard error without Dagster's own words on a log entry that it could not store: our message says why."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Such a message comes in one piece."""
        if not text.startswith("Exception while writing logger call to event log"):
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
