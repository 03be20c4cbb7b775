"""The Dagster graph, generated from orchestration/stages.py: assets, checks, jobs, schedules, sensors.

No `from __future__ import annotations` here: Dagster looks at the type of `context` itself.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.build import BuildError
from assets.errors import HeadwaterError
from orchestration.config import Profile, home_folder
from orchestration.graph.alert_sensor import build_alert_sensors
from orchestration.graph.freshness import build_freshness_checks, build_freshness_job, build_freshness_schedules
from orchestration.graph.launch_options import OPTIONS, RESOURCE, asked_of
from orchestration.graph.retries import ASKED_TAG, VERDICT_TAG, VERDICTS
from orchestration.graph.schedules import build_schedules
from orchestration.graph.sensors import build_sensors
from orchestration.graph.ui_metadata import latest_pictures, materialization_metadata, state_when_loaded
from orchestration.identity.catalog import read_catalog
from orchestration.identity.code_version import code_version
from orchestration.identity.equivalences import canonical_code
from orchestration.identity.search_tags import search_tags
from orchestration.identity.status import walk
from orchestration.process.asset_lock import AlreadyRunningError
from orchestration.process.machine_errors import machine_trouble
from orchestration.process.offline import apply_offline_defaults
from orchestration.process.progress import progress_for
from orchestration.process.workplace import open_workplace
from orchestration.publish.publisher import Publication, Publisher, StaleInputError
from orchestration.publish.staged import Staged
from orchestration.stages import GROUPS, JOBS, STAGES, Stage
from quality.asset_checks import NamedOutcome, check_specs

PARTITIONS = {
    "crawl": dg.DynamicPartitionsDefinition(name="crawl"),
    "run": dg.DynamicPartitionsDefinition(name="run"),
}
OWNERS = {"sources": "team:data", "documents": "team:data", "dedup": "team:data", "tokenizer": "team:data"}


def group_label(group: str) -> str:
    """Dagster sorts groups by name: the number keeps them in stage order."""
    return f"{GROUPS.index(group) + 1}_{group}"


def build_asset(stage: Stage, shown: str = "") -> dg.AssetsDefinition:
    """One row of stages.py as a Dagster asset with its checks; `shown` ends its description."""
    upstream = {edge.upstream: edge for edge in stage.inputs if edge.kind != "previous"}
    reads = ", ".join(f"{e.upstream} ({e.kind})" for e in stage.inputs) or "the world"
    modules = ", ".join(f"`{m.replace('.', '/')}.py`" for m in stage.modules)

    @dg.asset(
        name=stage.name,
        group_name=group_label(stage.group),
        deps=sorted(upstream),
        partitions_def=PARTITIONS[stage.partition] if stage.partition else None,
        description=f"{stage.sentence}\n\nReads: {reads}.\n\nCode: {modules}.\n\n{shown}".strip(),
        kinds=set(stage.kinds),
        owners=[OWNERS.get(stage.group, "team:modelling")],
        tags={"stage": f"{STAGES.index(stage) + 1:02d}"},
        code_version=canonical_code(stage, code_version(stage).digest),
        config_schema={},  # strict: without it an asset accepts anything and ignores it
        required_resource_keys={RESOURCE},
        check_specs=_check_specs(stage),
        output_required=False,
    )
    def _asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from materialise(context, stage)

    return _asset


def _check_specs(stage: Stage) -> list[dg.AssetCheckSpec]:
    """The checks of a stage, each judged per partition: a green one of one source hides no blocked one of another."""
    partitions = PARTITIONS[stage.partition] if stage.partition else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of `partitions_def`
        return [
            dg.AssetCheckSpec(
                name=check.name,
                asset=stage.name,
                description=check.description,
                blocking=check.blocking,
                partitions_def=partitions,
            )
            for check in check_specs(stage.name)
        ]


def materialise(context: dg.AssetExecutionContext, stage: Stage) -> Iterator[Any]:
    """Stage the data, yield the verdicts, merge, yield the materialisation; or fail saying why."""
    partition = context.partition_key if context.has_partition_key else None
    label = f"{stage.name}[{partition}]" if partition else stage.name
    progress = progress_for(label, context.log)
    try:
        workplace = open_workplace()
        asked = asked_of(getattr(context.resources, RESOURCE), context.run.tags, workplace.config)
        _tag_run(context, search_tags(stage.partition, partition, asked.reason))
        publisher = Publisher(
            store=workplace.store,
            config=workplace.config,
            home=workplace.home,
            progress=progress,
            trainer=_trainer(context, stage, workplace.config.profile),
            allow_stale=asked.allow_stale,
            force=asked.rebuild,
            accept_yield=asked.accept_yield,
        )
        with publisher.publishing(stage, partition) as result:
            verdicts = [_check_result(check, stage) for check in result.checks]
            if isinstance(result, Staged) and result.failed:
                yield from verdicts
            publication = result if isinstance(result, Publication) else publisher.merge(result)
    except (StaleInputError, AlreadyRunningError) as error:
        if ASKED_TAG not in context.run.tags:
            raise dg.Failure(description=str(error), metadata=_kind(error)) from None
        # What a sensor found fit changed since: its next tick decides anew, and nothing went wrong.
        context.log.info(f"{label} is left to the next tick: {error}")
        yield from _no_verdicts(stage)
        return
    except HeadwaterError as error:
        if type(error).__name__ in VERDICTS:
            context.instance.add_run_tags(context.run.run_id, {VERDICT_TAG: type(error).__name__})
        raise dg.Failure(description=_description(error), metadata=_kind(error)) from None
    except Exception as error:
        trouble = machine_trouble(error, home_folder())
        if trouble is None:
            raise
        raise dg.Failure(description=trouble, metadata=_kind(error)) from error
    if publication.already_done:
        context.log.info(f"{label} is on main already with this fingerprint; nothing was rebuilt.")
    progress.finish(last_word(publication))
    yield dg.MaterializeResult(
        asset_key=stage.name,
        data_version=dg.DataVersion(publication.manifest["version"]),
        metadata=materialization_metadata(publication, workplace.store),
    )
    # After it: Dagster calls a verdict outdated that is older than what it judged, and a partition's then shows nothing.
    yield from verdicts


def _tag_run(context: dg.AssetExecutionContext, tags: dict[str, str]) -> None:
    """Add the tags that whoever started the run did not set: the UI's launchpad sets none."""
    if lacking := {key: value for key, value in tags.items() if key not in context.run.tags}:
        context.instance.add_run_tags(context.run.run_id, lacking)


def _no_verdicts(stage: Stage) -> Iterator[dg.Output[None]]:
    """The outputs of the checks without a verdict: Dagster wants them even where nothing was built."""
    for check in check_specs(stage.name):
        yield dg.Output(None, output_name=f"{stage.name}_{check.name}")


def _description(error: HeadwaterError) -> str:
    """A stage's own message; where that only quotes the machine's (the training program's traceback), our own."""
    quoted = machine_trouble(error, home_folder()) if isinstance(error, BuildError) else None
    return quoted or str(error)


def _kind(error: Exception) -> dict[str, str]:
    return {"error": type(error).__name__}


def last_word(publication: Publication) -> str:
    """What a finished build says in one line."""
    report = publication.report
    if report.documents_in is not None:
        return f"{report.documents_kept:,} of {report.documents_in:,} documents"
    if report.tokens_out is not None:
        return f"{report.tokens_out:,} tokens"
    rows = sum(publication.manifest["rows"].values())
    return f"{rows:,} rows" if rows else f"{len(publication.manifest['files'])} files"


def _trainer(context: dg.AssetExecutionContext, stage: Stage, profile: Profile) -> Any:
    if stage.name != "base_checkpoints":
        return None
    from orchestration.launch.trainer import PipesTrainer

    return PipesTrainer(context, observe_every_steps=profile.observe_every_steps, place=profile.training)


def _check_result(check: NamedOutcome, stage: Stage) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=check.outcome.passed,
        asset_key=stage.name,
        check_name=check.name,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=check.outcome.description,
        metadata={key: value for key, value in check.outcome.metadata.items() if value is not None},
    )


def build_jobs(freshness: Sequence[dg.AssetChecksDefinition] = ()) -> dict[str, Any]:
    """The four jobs: one crawl, the global stages, one training run, the lineage; without the checks of freshness."""
    by_the_clock = dg.AssetSelection.checks(*freshness)
    return {
        name: dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*assets) - by_the_clock,
            executor_def=dg.in_process_executor,
            description=f"Materialises {', '.join(assets)}.",
        )
        for name, assets in JOBS.items()
    }


def published() -> dict[str, str]:
    """State and plots of each asset, for the descriptions; "Reload definitions" in the UI brings newer ones."""
    workplace = open_workplace()
    if "://" not in workplace.store_place and not Path(workplace.store_place).exists():
        return {}
    try:
        catalog = read_catalog(workplace.store)
        status = walk(catalog, workplace.config)
        return {
            stage.name: f"{state_when_loaded(status.of(stage.name))}\n\n"
            + latest_pictures(stage.name, workplace.store, catalog)
            for stage in STAGES
        }
    except HeadwaterError as error:
        return {stage.name: f"No state and no pictures: {error}" for stage in STAGES}


def build_definitions() -> dg.Definitions:
    """The whole graph. Loads neither torch nor datatrove."""
    apply_offline_defaults(os.environ)
    freshness = build_freshness_checks()
    jobs, watching = build_jobs(freshness), build_freshness_job(freshness)
    shown = published()
    return dg.Definitions(
        assets=[build_asset(stage, shown.get(stage.name, "")) for stage in STAGES],
        asset_checks=freshness,
        jobs=[*jobs.values(), *watching],
        schedules=[*build_schedules(jobs), *build_freshness_schedules(watching)],
        sensors=[*build_sensors(jobs), *build_alert_sensors()],
        resources={RESOURCE: OPTIONS},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
