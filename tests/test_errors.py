"""One root of the errors that are raised on purpose; what has it reaches a person as its sentence."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import dagster as dg
import pytest
import typer

import assets
import orchestration
from assets.errors import HeadwaterError
from orchestration.cli.app import expected_errors
from orchestration.graph.definitions import build_asset
from orchestration.graph.launch_options import OPTIONS, RESOURCE
from orchestration.stages import BY_NAME

BETWEEN_OURSELVES = {
    "assets.documents.formats.unreadable.UnreadableError": "becomes the drop reason of a page",
    "assets.executors.ray.WorkerKilledError": "is raised in a worker and told by the stage",
    "assets.sources.bulk.dataset_rows.RowError": "becomes the drop reason of a row",
    "assets.sources.streams.warc_members.UnreadableRecord": "becomes the drop reason of a record",
    "assets.sources.web.content_coding.BodyTooLargeError": "becomes the drop reason of a page",
    "assets.sources.web.content_coding.BodyUndecodableError": "becomes the drop reason of a page",
    "assets.sources.web.content_coding.UnsupportedCodingError": "becomes the drop reason of a page",
    "assets.sources.web.sitemaps.SitemapUnreadableError": "becomes a row about a sitemap",
    "assets.documents.sandbox.Died": "a page is judged by it",
    "assets.documents.sandbox.Hung": "a page is judged by it",
    "assets.documents.sandbox.Spent": "a page is judged by it",
    "orchestration.store.lakefs.retrying.TransientError": "asks for another try, after the last of which it is a StoreError",
    "orchestration.store.lakefs.s3_bucket.UnreadableMarkError": "asks for another try",
    "orchestration.upkeep.takedown_text.UnreadableError": "is listed among what a takedown could not search",
}
"""Exceptions of ours that no person meets, with what becomes of them."""


def our_exceptions() -> dict[str, type[BaseException]]:
    """Every public exception class that the product defines, by its full name."""
    found = {}
    for package in (assets, orchestration):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith(("__main__", "fork_server")):
                continue  # importing them starts something
            for name, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if value.__module__ == module.name and issubclass(value, BaseException) and not name.startswith("_"):
                    found[f"{module.name}.{name}"] = value
    return found


def test_every_error_that_is_raised_on_purpose_has_one_root() -> None:
    rootless = {name for name, value in our_exceptions().items() if not issubclass(value, HeadwaterError)}
    assert rootless == set(BETWEEN_OURSELVES)


def test_a_command_tells_it_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    class NewError(HeadwaterError):
        pass

    def command() -> None:
        raise NewError("there is no such thing; name another")

    with pytest.raises(typer.Exit) as ended:
        expected_errors(command)()
    assert ended.value.exit_code == 1
    assert "there is no such thing; name another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "partition", "sentence"),
    [
        ("raw_crawl", "foo", "foo"),
        ("mixture_manifest", "tiny@20260101T000000Z", "refuses to build on stale input"),
    ],
)
def test_the_ui_tells_it_in_a_sentence(
    stage: str, partition: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    row = BY_NAME[stage]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(row.partition or "", [partition])
        done = dg.materialize(
            [build_asset(row)],
            resources={RESOURCE: OPTIONS},
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
        )
    (failed,) = [event for event in done.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    data = failed.step_failure_data
    assert data.user_failure_data is not None
    told = data.user_failure_data.description or ""
    assert sentence in told
    assert "Traceback" not in told
    assert data.error is None or data.error.cause is None, "a person would see the frames of the cause"
