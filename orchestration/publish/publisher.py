"""Write, audit, publish: the one way data gets onto `main`.

resolve inputs -> refuse stale ones -> build into a scratch folder -> run the checks -> commit to a branch ->
merge that very commit to `main` only if every blocking check passed, all under one lock. A failed check
leaves the branch for inspection and `main` untouched. Killed at any point, the same call again ends
in the same data: scratch folders are named by fingerprint and the merge is one atomic reference move.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from assets.build import Build, BuildError, Extension, Progress, Segment, StageReport, TrainerLauncher
from assets.errors import HeadwaterError
from orchestration.config import Config
from orchestration.identity.catalog import MANIFEST_FORMAT, Catalog, prefix, read_catalog, segment, way_out
from orchestration.identity.digest import DIGESTS, HIDDEN, REPORT, FileDigest, FolderDigest, digest_folder
from orchestration.identity.fingerprint import Identity, identity
from orchestration.identity.key_order import check_order
from orchestration.identity.status import (
    CRAWL,
    PLANNER,
    current_inputs,
    differences,
    published_crawls,
    upstream_problems,
    walk,
)
from orchestration.launch.curation import CurationExecutor
from orchestration.process.asset_lock import AssetLock, asset_lock
from orchestration.publish import report_json
from orchestration.publish.earlier_builds import base_of, others_of
from orchestration.publish.evidence import accept, evidence
from orchestration.publish.scratch import prepare_scratch
from orchestration.publish.staged import Publication, Staged, encoded, manifest_path, refuse_unchecked
from orchestration.publish.superseding import superseded_by
from orchestration.publish.ways_out import blocked
from orchestration.stages import BY_NAME, Stage
from orchestration.store.contract import ObjectInfo, PurgedObjectError, VersionedStore
from orchestration.upkeep.compaction import Packs
from quality.asset_checks import NamedOutcome, run_checks

ALLOW_STALE_TAG, FORCE_TAG = "headwater/allow_stale", "headwater/force"
"""Run tags that a person sets in the UI: build on stale input (recorded), build again although nothing changed."""

STAGED = "staged_on"
"""Metadata key of commits on build branches: the history of published data leaves them out."""


class StaleInputError(HeadwaterError):
    """Something upstream is stale or missing: building on it would serve old data as new."""


class PublishedOnceError(HeadwaterError):
    """Evidence of the web, or what a run is bound to, was to be replaced."""


class BlockedError(HeadwaterError):
    """A blocking check failed: the data stays on its branch, `main` is untouched."""


@dataclass(frozen=True)
class _Kept:
    """Files of an earlier version that still belong to the output, by name."""

    objects: dict[str, ObjectInfo]
    digests: dict[str, FileDigest]


@dataclass
class Publisher:
    """Everything a build needs besides the stage itself."""

    store: VersionedStore
    config: Config
    home: Path
    progress: Progress
    trainer: TrainerLauncher | None = None
    allow_stale: bool = False
    force: bool = False
    accept_yield: frozenset[str] = frozenset()
    """Sources whose yields may jump, because a person looked at them."""

    @contextmanager
    def publishing(self, stage: Stage, partition: str | None) -> Iterator[Staged | Publication]:
        """Build and check one partition, and hold its lock until the caller has merged what is given.

        A Publication when exactly this is on `main` already. Raises AlreadyRunningError.
        """
        with asset_lock(self.home, stage.name, partition) as lock:
            yield self._stage(stage, partition, lock)

    def _stage(self, stage: Stage, partition: str | None, lock: AssetLock) -> Staged | Publication:
        everything = catalog = read_catalog(self.store)
        if stage.name == CRAWL and partition and not catalog.get(CRAWL, partition):
            catalog = catalog.without(superseded_by(partition, catalog, self.store))
        stale = self._refuse_stale(stage, partition, catalog)
        wanted = identity(stage, partition, self.config, self._input_versions(stage, partition, catalog))
        done = catalog.get(stage.name, partition)
        _refuse_disorder(stage, partition, everything)
        if done and (done["fingerprint"] == wanted.fingerprint or stage.name == CRAWL) and not self.force:
            return self._accepted(stage, done, catalog)
        if done and stage.once:
            self._refuse_to_replace(stage, partition, done, wanted)
        return self._build(stage, partition, catalog, wanted, stale, lock)

    def merge(self, staged: Staged) -> Publication:
        """Move staged data to `main`.

        Raises BlockedError naming the failed checks, NotWhatWasCheckedError, KeyOrderError.
        """
        if staged.failed:
            raise BlockedError(blocked(staged, self.config.sources))
        refuse_unchecked(self.store, staged)
        _refuse_disorder(staged.stage, staged.partition, read_catalog(self.store))
        metadata = {
            "asset": staged.stage.name,
            "partition": staged.partition or "",
            "version": staged.manifest["version"],
            "fingerprint": staged.manifest["fingerprint"],
        }
        message = f"Publish {staged.label} {staged.manifest['version'][:12]}"
        commit = self.store.merge(staged.branch, message=message, metadata=metadata, expected_head=staged.commit)
        if staged.stage.name == PLANNER:
            self._pin(staged.manifest)
        self.store.delete_branch(staged.branch)
        shutil.rmtree(self._scratch(staged.stage, staged.partition), ignore_errors=True)
        return Publication(staged.manifest, staged.report, staged.checks, commit, already_done=False)

    # --- inputs

    def _input_versions(self, stage: Stage, partition: str | None, catalog: Catalog) -> dict[str, dict[str, str]]:
        return current_inputs(stage, partition, catalog, published_crawls(catalog))

    def _refuse_stale(self, stage: Stage, partition: str | None, catalog: Catalog) -> list[str]:
        extra = [partition] if stage.partition == "run" and partition else []
        status = walk(catalog, self.config, extra, stage)
        crawls = published_crawls(catalog)
        problems = upstream_problems(stage, partition, catalog, crawls, status, for_build=True)
        if problems and not self.allow_stale:
            raise StaleInputError(
                f"{stage.name} refuses to build on stale input: {'; '.join(problems)}. "
                "`headwater status` says why; `headwater run` brings everything up to date; "
                "--allow-stale (run tag headwater/allow_stale=true) overrides and is recorded."
            )
        return problems

    def _refuse_to_replace(
        self, stage: Stage, partition: str | None, done: Mapping[str, Any], wanted: Identity
    ) -> None:
        causes = "; ".join(differences(done["identity"], wanted)) or "it was to be built again"
        remedy = (
            "Crawl again: `headwater run --recrawl SOURCE`"
            if stage.name == CRAWL
            else "A changed recipe is a new run: `headwater run`, or a new partition of this asset"
        )
        raise PublishedOnceError(
            f"{stage.name}[{partition}] is published and is never replaced, for what was made from it would no longer "
            f"be true ({causes}). {remedy}."
        )

    def _segments(self, stage: Stage, partition: str | None, catalog: Catalog) -> dict[str, list[Segment]]:
        """Segments per upstream asset, at the pinned commit for pinned edges, sorted by partition."""
        found: dict[str, dict[str, Segment]] = {}
        pinned, packs = None, Packs(self.home, self.store)
        for edge in stage.inputs:
            source = catalog
            if edge.kind == "pinned" and stage.name != PLANNER:
                pinned = pinned or read_catalog(self.store, self._pin_of(partition, catalog))
                source = pinned
            only = (
                replace(stage, inputs=(replace(edge, kind="all"),))
                if edge.kind in ("frozen", "pinned")
                else replace(stage, inputs=(edge,))
            )
            versions = current_inputs(only, partition, source, published_crawls(source))
            for key in versions.get(edge.upstream, {}):
                manifest = source.get(edge.upstream, key or None)
                if manifest:
                    packed = packs.of(manifest)
                    read = segment(self.store, source.commit, manifest, verified=True, packed=packed)
                    found.setdefault(edge.upstream, {})[key] = read
        return {asset: [parts[key] for key in sorted(parts)] for asset, parts in found.items()}

    def _pin_of(self, run: str | None, catalog: Catalog) -> str:
        manifest = catalog.get(PLANNER, run)
        if manifest is None:
            raise StaleInputError(f"run {run} is not planned yet: materialise {PLANNER} of this partition first.")
        return str(manifest["pin"])

    def _pin(self, manifest: Mapping[str, Any]) -> None:
        """Tag the commit a run reads, so that garbage collection keeps it as long as the run is known."""
        run, pin = manifest["partition"], manifest["pin"]
        if self.store.tags().get(f"run/{run}") != pin:
            self.store.tag(f"run/{run}", pin, f"data that run {run} was planned on")

    # --- building

    def _build(
        self, stage: Stage, partition: str | None, catalog: Catalog, wanted: Identity, stale: list[str], lock: AssetLock
    ) -> Staged:
        scratch = self._scratch(stage, partition)
        here = scratch / wanted.fingerprint[:16]
        prepare_scratch(scratch, here, keep_output=stage.resumable)
        started = time.monotonic()
        previous = catalog.get(stage.name, partition)
        earlier = None if self.force else previous  # what is made again, perhaps because it is damaged, is not read
        accepted = segment(self.store, catalog.commit, earlier, verified=True) if earlier else None
        build = Build(
            asset=stage.name,
            partition=partition,
            output=here / "output",
            scratch=here / "work",
            inputs=self._segments(stage, partition, catalog),
            recipes=wanted.config,
            workers=self.config.profile.workers,
            executor=CurationExecutor(self.config.profile),
            progress=self.progress,
            previous=accepted,
            base=base_of(accepted, wanted),
            others=self._others(stage, partition, catalog, wanted),
            trainer=self.trainer,
            fingerprint=wanted.fingerprint,
        )
        report = builder(stage)(build)
        _account(stage, partition, report)
        kept = self._kept(report.extends, catalog)
        manifest, digest = self._manifest(stage, partition, catalog, wanted, report, build.output, kept, started)
        if stale:
            manifest["built_on_stale_input"] = stale
        seen = evidence(stage, partition, catalog, report, manifest)
        checks, accepted = accept(tuple(run_checks(stage.name, seen)), self.accept_yield)
        manifest.update(accepted)
        if stage.partition is None and seen.history:
            manifest["yield_history"] = seen.history
        manifest["checks"] = [check.as_json() for check in checks]
        branch, commit = self._stage_on_branch(stage, partition, build.output, manifest, report, kept, digest)
        return Staged(stage, partition, branch, commit, lock, manifest, report, checks)

    def _others(self, stage: Stage, partition: str | None, catalog: Catalog, wanted: Identity) -> list[Segment]:
        if not stage.resumable or not self.config.profile.training.take_over:
            return []
        return others_of(self.store, stage, partition, catalog, wanted)

    def _manifest(
        self,
        stage: Stage,
        partition: str | None,
        catalog: Catalog,
        wanted: Identity,
        report: StageReport,
        output: Path,
        kept: _Kept,
        started: float,
    ) -> tuple[dict[str, Any], FolderDigest]:
        digest = digest_folder(output, report.volatile_files, kept.digests)
        new = {
            path.relative_to(output).as_posix(): path.stat().st_size
            for path in sorted(output.rglob("*"))
            if path.is_file() and path.name not in HIDDEN
        }
        files = {name: info.size_bytes for name, info in kept.objects.items()} | new
        extends = report.extends and {"version": report.extends.segment.version, "updates": report.extends.updates}
        manifest = {
            "format": MANIFEST_FORMAT,
            "asset": stage.name,
            "partition": partition,
            "version": digest.version,
            "fingerprint": wanted.fingerprint,
            "identity": wanted.as_json(),
            "pin": catalog.commit if stage.name == PLANNER else None,
            "report": report.as_json(),
            "rows": digest.rows,
            "bytes": sum(files.values()),
            "bytes_added": sum(new.values()),
            "files": dict(sorted(files.items())),
            "extends": extends,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - started, 3),
        } | ({"supersedes": list(catalog.left_out)} if catalog.left_out else {})
        return manifest, digest

    def _kept(self, extends: Extension | None, catalog: Catalog) -> _Kept:
        """The objects that an output keeps from an earlier version, and their digests: nothing of them is read."""
        if extends is None:
            return _Kept({}, {})
        base = extends.segment
        folder = prefix(BY_NAME[base.asset], base.partition)
        known = json.loads(self.store.read_bytes(catalog.commit, folder + DIGESTS))
        return _Kept(
            {name: self.store.stat(catalog.commit, folder + name) for name in sorted(extends.kept)},
            {name: FileDigest.from_json(known[name]) for name in sorted(extends.kept) if name in known},
        )

    def _stage_on_branch(
        self,
        stage: Stage,
        partition: str | None,
        output: Path,
        manifest: dict[str, Any],
        report: StageReport,
        kept: _Kept,
        digest: FolderDigest,
    ) -> tuple[str, str]:
        branch = "/".join(["build", stage.name, *([partition] if partition else []), manifest["fingerprint"][:12]])
        if branch in self.store.branches():
            self.store.delete_branch(branch)
        start = self.store.create_branch(branch)
        folder = prefix(stage, partition)
        put: dict[str, Path | bytes | ObjectInfo] = {
            folder + name: kept.objects.get(name) or output / name for name in manifest["files"]
        }
        digests = {name: found.as_json() for name, found in digest.files.items()}
        put[folder + DIGESTS] = json.dumps(digests, indent=1, sort_keys=True).encode()
        put[manifest_path(stage, partition)] = encoded(manifest)
        put[folder + REPORT] = json.dumps(report_json.encode(report), ensure_ascii=False).encode()
        existing = any(True for _ in self.store.list(branch, folder))
        remove, metadata = [folder] if existing else [], {STAGED: branch}
        message = f"Stage {stage.name}"
        try:
            made = self.store.commit(branch, put, remove, message=message, metadata=metadata, expected_parent=start)
        except PurgedObjectError as error:
            raise PurgedObjectError(f"{error} {way_out(stage.name, partition)}") from None
        return branch, made

    def _accepted(self, stage: Stage, manifest: dict[str, Any], catalog: Catalog) -> Publication:
        if stage.name == PLANNER:
            self._pin(manifest)  # its process may have died between the merge and the tag
        content = self.store.read_bytes(catalog.commit, prefix(stage, manifest["partition"]) + REPORT)
        checks = tuple(NamedOutcome.from_json(entry) for entry in manifest["checks"])
        return Publication(manifest, report_json.decode(json.loads(content)), checks, catalog.commit, already_done=True)

    # --- places

    def _scratch(self, stage: Stage, partition: str | None) -> Path:
        return self.home / "scratch" / stage.name / (partition or "_")


def builder(stage: Stage) -> Any:
    """The build function of an asset: assets/<group>/defs.py, the function of the asset's name."""
    return getattr(import_module(f"assets.{stage.group}.defs"), stage.name)


def _refuse_disorder(stage: Stage, partition: str | None, catalog: Catalog) -> None:
    """Whoever named it, here or in the UI, what begins a crawl or a run is published in the order of its time stamp."""
    if stage.name in (CRAWL, PLANNER) and partition is not None:
        check_order("crawl" if stage.name == CRAWL else "run", partition, catalog.partitions(stage.name))


def _account(stage: Stage, partition: str | None, report: StageReport) -> None:
    """documents in = kept + dropped, or the stage lost documents without a word."""
    if report.documents_in is None:
        return
    out = (report.documents_kept or 0) + sum(report.dropped.values())
    if out != report.documents_in:
        raise BuildError(
            f"{stage.name} {partition or ''}: {report.documents_in} documents came in but {report.documents_kept} were "
            f"kept and {sum(report.dropped.values())} dropped ({dict(report.dropped)}): "
            f"{report.documents_in - out} are unaccounted for. This is a bug of the stage; nothing was published."
        )


def publish(publisher: Publisher, asset: str, partition: str | None = None) -> Publication:
    """Stage, check and merge one partition: for the command line and tests, without Dagster."""
    with publisher.publishing(BY_NAME[asset], partition) as result:
        return result if isinstance(result, Publication) else publisher.merge(result)
