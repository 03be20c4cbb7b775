"""Each message of a blocking check ends with a command, and the command leads on: for every check that can block."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestration.cli.runner import run_to_date
from orchestration.identity.status import superseded_crawls
from orchestration.publish import publisher as publish
from orchestration.run.driver import Options, RunFailedError
from orchestration.stages import BY_NAME, STAGES
from quality.asset_checks import check_specs
from quality.outcome import Evidence
from quality.thresholds import LIMITS, YIELD_DOCUMENTS_MINIMUM
from tests.orchestration.nights import Nights

FIRST, SECOND, THIRD, FOURTH = (f"2026010{day}T000000Z" for day in range(1, 5))
PAGES = YIELD_DOCUMENTS_MINIMUM + 4
BLOCKING = [
    (stage.name, check.name)
    for stage in STAGES
    if stage.partition != "run"
    for check in check_specs(stage.name)
    if check.blocking
]

Forge = Callable[[Evidence], Evidence]


def with_report(**fields: Any) -> Forge:
    """The same evidence with other numbers; what is no field of a report is a statistic."""

    def forged(evidence: Evidence) -> Evidence:
        report = {**evidence.report, "stats": dict(evidence.report["stats"])}
        for name, value in fields.items():
            (report if name in report else report["stats"])[name] = value
        return replace(evidence, report=report)

    return forged


def with_rows(table: str) -> Forge:
    """One row too few."""
    return lambda evidence: replace(evidence, rows={**evidence.rows, table: evidence.rows[table] - 1})


def against(previous: Mapping[str, Any], **fields: Any) -> Forge:
    """The same with another accepted version before it."""

    def forged(evidence: Evidence) -> Evidence:
        return replace(with_report(**fields)(evidence), previous=previous)

    return forged


def everything_dropped(evidence: Evidence) -> Evidence:
    """A rule that takes all of a source."""
    source = "alpha"
    return replace(evidence, yields={source: {"documents_in": 50, "dropped": {"a_rule": 50}}}, history={})


MANY = {"documents_in": 100, "documents_kept": 100, "dropped": {"near_duplicate": 30}}
ACCEPTED = {**MANY, "stats": {"dropped_by_source": {"alpha": {}}, "kept_by_source": {"alpha": 100, "beta": 1}}}
FORGED: dict[tuple[str, str], Forge] = {
    ("crawl_delta", "removed_pages_are_a_minority"): with_report(live_before=100, removed_share=0.9),
    ("extracted_documents", "every_document_has_one_row"): with_rows("documents"),
    ("extracted_documents", "source_was_not_wiped_out"): against(MANY, documents_kept=1),
    ("extracted_documents", "extraction_rarely_fails"): with_report(documents_in=100, failed_share=0.5),
    ("filtered_documents", "every_document_has_one_row"): with_rows("decisions"),
    ("filtered_documents", "source_was_not_wiped_out"): against(MANY, documents_kept=1),
    ("filtered_documents", "no_rule_drops_most_of_a_source"): with_report(wanted_seen=100, largest_drop_share=0.9),
    ("filtered_documents", "language_yields_are_plausible"): with_report(
        yield_by_language={"en": 0.0}, languages_seen={"en": 100}
    ),
    ("document_signatures", "every_kept_document_is_signed"): with_rows("signatures"),
    ("duplicate_clusters", "proven_pairs_reach_the_threshold"): with_report(smallest_similarity=0.0),
    ("duplicate_clusters", "duplicates_are_still_found"): against(ACCEPTED, dropped={}),
    ("contamination", "contamination_does_not_condemn_the_corpus"): with_report(
        documents_in=100, dropped={"contaminated": 90}
    ),
    ("corpus", "corpus_does_not_shrink"): against(ACCEPTED, documents_kept=1),
    ("token_shards", "every_corpus_document_is_in_the_index"): with_rows("index"),
    ("token_shards", "tokens_did_not_collapse"): against({"stats": {"tokens_in_index": 100}}, tokens_in_index=1),
    ("lineage_audit", "every_rule_looked_at_every_run"): with_report(runs_without_pieces=1),
} | {(asset, check): everything_dropped for asset, check in BLOCKING if check == "yields_are_like_before"}


def forge_of(asset: str, check: str) -> Forge:
    """What makes this check fail."""
    if (asset, check) in FORGED:
        return FORGED[asset, check]
    limit = next(each for each in LIMITS if (each.asset, each.check) == (asset, check))
    beyond = limit.maximum + 1 if limit.maximum is not None else (limit.minimum or 0) - 1
    return with_report(**{limit.statistic: beyond})


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    with pytest.MonkeyPatch.context() as patch:
        nights = Nights.create(tmp_path_factory.mktemp("blocked"), patch, "alpha", "beta", pages=PAGES)
        nights.run(at=FIRST)
    return nights


@pytest.fixture
def built(built_once: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return built_once.copy(tmp_path / "built", monkeypatch)


class Fault:
    """While it lasts, one partition of an asset is judged by forged evidence."""

    def __init__(self, asset: str, partition: str | None, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts = True
        honest = publish.evidence

        def evidence(stage: Any, key: str | None, *arguments: Any) -> Evidence:
            found = honest(stage, key, *arguments)
            return forge(found) if self.lasts and (stage.name, key) == (asset, partition) else found

        monkeypatch.setattr(publish, "evidence", evidence)


def blocked_run(nights: Nights, options: Options) -> str:
    """What `headwater run` said of the check that blocked it."""
    with pytest.raises(RunFailedError, match=r"blocking check\(s\) failed") as failed:
        run_to_date(nights.workplace, options, as_json=True)
    return str(failed.value)


def commands_of(words: str) -> list[str]:
    """The commands that lead on, in the order of the message."""
    return re.findall(r"`(headwater run --[^`]+)`", words.split("(headwater diff", 1)[1])


def type_in(nights: Nights, command: str, at: str) -> None:
    """The command, as the command line reads it."""
    words = shlex.split(command)[2:]
    given: dict[str, list[str]] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault(option.removeprefix("--").replace("-", "_"), []).append(value)
    options = Options("tiny", train=False, at=at, **{name: tuple(values) for name, values in given.items()})  # type: ignore[arg-type]
    run_to_date(nights.workplace, options, as_json=True)


def test_every_blocking_check_is_tried() -> None:
    limits = {(limit.asset, limit.check) for limit in LIMITS}
    assert len(BLOCKING) > 40
    assert set(BLOCKING) - limits <= set(FORGED), "a new check: say in FORGED what makes it fail"


FIRST_OF_ITS_ASSET = dict(reversed(BLOCKING))
"""With `make test-slow`; all of them with `make campaign-ways-out`."""


@pytest.mark.parametrize(
    ("asset", "check"),
    [
        pytest.param(*each, marks=pytest.mark.slow if FIRST_OF_ITS_ASSET[each[0]] == each[1] else pytest.mark.campaign)
        for each in BLOCKING
    ],
)
def test_the_message_of_a_blocked_check_ends_with_a_command_that_leads_on(
    built: Nights, asset: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_crawl = BY_NAME[asset].partition == "crawl"
    key = f"alpha@{SECOND}" if a_crawl else None
    fault = Fault(asset, key, forge_of(asset, check), monkeypatch)
    built.write("alpha", PAGES, "en 200")
    rebuild = () if a_crawl or BY_NAME[asset].once else (asset,)
    words = blocked_run(built, Options("tiny", recrawl=("alpha",), rebuild=rebuild, train=False, at=SECOND))
    assert check in words
    before = built.catalog().get(asset, None)
    commands = [command for command in commands_of(words) if "--abandon" not in command]
    assert commands, words
    for number, command in enumerate(dict.fromkeys(commands)):
        place = built.copy(tmp_path / str(number), monkeypatch)
        fault.lasts = "--accept-yield" in command or (a_crawl and asset != "raw_crawl")
        type_in(place, command, THIRD)
        assert place.status().needing() == [], command
        published = place.catalog().get(asset, key if fault.lasts and "accept" in command else None)
        assert a_crawl or (published and published != before), command


@pytest.mark.slow
def test_a_crawl_that_was_blocked_twice_is_accepted_by_the_last_command(
    built: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"alpha@{SECOND}"
    Fault("raw_crawl", key, everything_dropped, monkeypatch)
    words = blocked_run(built, Options("tiny", recrawl=("alpha",), train=False, at=SECOND))
    blocked_run(built, Options("tiny", train=False))
    built.run()  # it is held back now
    command = [each for each in commands_of(words) if "--accept-yield" in each][-1]
    type_in(built, command, THIRD)
    assert key in built.catalog().partitions("raw_crawl")
    assert built.status().needing() == []


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    found = Nights.create(tmp_path, monkeypatch, "alpha", "beta", pages=PAGES)
    restore(found)
    return found


def wipe(nights: Nights) -> None:
    """A night in which every page of alpha is there, and says nothing."""
    for page in range(PAGES):
        (nights.folder / "sites" / "alpha" / f"{page:02d}.txt").write_text(f"Under construction, {page}.")


def restore(nights: Nights) -> None:
    for page in range(PAGES):
        nights.write("alpha", page, f"en {100 + page}")


@pytest.mark.slow
def test_a_newer_good_crawl_takes_the_place_of_a_blocked_one(nights: Nights, tmp_path: Path) -> None:
    nights.run(at=FIRST)
    wipe(nights)
    words = blocked_run(nights, Options("tiny", recrawl=("alpha",), train=False, at=SECOND))
    assert "`headwater run --recrawl alpha`" in words
    assert blocked_run(nights, Options("tiny", train=False))  # red, and nothing else is held up
    assert nights.documents() == {"alpha": PAGES, "beta": PAGES}
    restore(nights)
    nights.write("alpha", 3, "en 300")
    nights.run("alpha", at=THIRD)
    assert superseded_crawls(nights.catalog()) == {f"alpha@{SECOND}": f"alpha@{THIRD}"}
    assert nights.status().needing() == []
    assert nights.documents() == {"alpha": PAGES, "beta": PAGES}
    assert nights.catalog().manifests["raw_crawl", f"alpha@{THIRD}"]["identity"]["inputs"]["raw_crawl"].keys() == {
        f"alpha@{FIRST}"
    }
    item = nights.status().items["raw_crawl", f"alpha@{SECOND}"]
    assert (item.state, item.causes) == ("history", (f"blocked by a check; alpha@{THIRD} takes its place",))
    nights.write("alpha", 4, "en 301")
    nights.run("alpha", at=FOURTH)
    assert superseded_crawls(nights.catalog()) == {f"alpha@{SECOND}": f"alpha@{THIRD}"}
    assert nights.status().needing() == []


@pytest.mark.slow
def test_a_first_crawl_that_is_blocked_is_replaced_too(nights: Nights) -> None:
    wipe(nights)
    assert "alpha" in blocked_run(nights, Options("tiny", train=False, at=FIRST))
    restore(nights)
    nights.run("alpha", at=SECOND)
    assert superseded_crawls(nights.catalog()) == {f"alpha@{FIRST}": f"alpha@{SECOND}"}
    assert nights.documents() == {"alpha": PAGES, "beta": PAGES}
    assert nights.status().needing() == []


@pytest.mark.slow
def test_a_blocked_crawl_is_served_once_a_person_accepts_it(nights: Nights) -> None:
    nights.run(at=FIRST)
    wipe(nights)
    blocked_run(nights, Options("tiny", recrawl=("alpha",), train=False, at=SECOND))
    type_in(nights, "headwater run --accept-yield alpha", SECOND)
    assert superseded_crawls(nights.catalog()) == {}
    assert nights.status().needing() == []
    assert nights.documents() == {"alpha": 0, "beta": PAGES}


@pytest.mark.slow
def test_a_crawl_that_is_only_not_built_yet_is_built_upon(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.run(at=FIRST)
    nights.write("alpha", 3, "en 300")
    with monkeypatch.context() as patch, pytest.raises(RunFailedError):
        patch.setattr("assets.documents.defs.extracted_documents", _fails)
        nights.run("alpha", at=SECOND)
    nights.write("alpha", 4, "en 301")
    nights.run("alpha", at=THIRD)
    assert superseded_crawls(nights.catalog()) == {}
    assert nights.status().needing() == []


def _fails(build: object) -> Iterator[None]:
    raise RuntimeError("no memory")
