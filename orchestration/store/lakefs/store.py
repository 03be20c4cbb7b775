"""The store on a lakeFS server: versions in lakeFS, contents by SHA-256 in the bucket beside it.

lakeFS entries point at `<namespace>-objects/sha256/..` (s3_objects.py), with the SHA-256 as their checksum,
so lakeFS compares contents by it and any lakeFS client, the S3 gateway included, reads the same files. Bytes
do not go through the gateway: it would store equal contents again at an address of its own choosing, and
could never delete one for good. How a commit is made safe against races: history.py.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from orchestration.store import paths
from orchestration.store.contract import (
    MAIN,
    Change,
    CommitInfo,
    GarbageReport,
    InvalidPathError,
    LostRaceError,
    MergeConflictError,
    ObjectInfo,
    PathNotFoundError,
    RefNotFoundError,
    StoreError,
    StoreUnavailableError,
    VerifyReport,
)
from orchestration.store.expected_head import head_to_merge
from orchestration.store.git.objects import encode_message
from orchestration.store.lakefs import history, maintenance
from orchestration.store.lakefs.api import LakefsApi, RefusedError
from orchestration.store.lakefs.names import TRANSIT, check_new, decode, encode
from orchestration.store.lakefs.s3_objects import S3Objects
from orchestration.store.lakefs.settings import NAMESPACE, LakefsSettings, objects_area
from orchestration.store.lakefs.trees import LakefsTrees

MERGE_ATTEMPTS = 100
COPIED = "copied/"
"""Tags `copied/<id>` of a copied store: the ids that commits had where they came from (see copy.py)."""
Edits = dict[str, ObjectInfo | None]  # what to store at a path; None: nothing


class LakefsStore:
    """VersionedStore on one lakeFS repository. Safe for many processes on many machines."""

    def __init__(self, settings: LakefsSettings) -> None:
        """Open the repository; create it where settings name a namespace. Raises StoreError, StoreUnavailableError."""
        self.settings = settings
        self.api = LakefsApi(settings)
        namespace = self.api.namespace()
        if namespace is None:
            if not settings.namespace:
                raise StoreError(
                    f"there is no repository {settings.repository!r} at {settings.endpoint}; create it, or set {NAMESPACE} "
                    "(s3://bucket/prefix) to have it created"
                )
            with suppress(RefusedError):  # 409: another process made it first
                self.api.create_repository(settings.namespace)
            namespace = self.api.namespace()
        if not namespace or not namespace.startswith("s3://"):
            raise StoreError(f"repository {settings.repository!r} lies in {namespace}; only s3:// namespaces are known")
        self.objects = S3Objects(objects_area(namespace), settings.cache, settings.patience)
        self.trees = LakefsTrees(self.api, self.objects)

    # --- refs

    def resolve(self, ref: str) -> str:
        """Full commit id of a branch, a tag, or a commit id (or prefix); `REF~N` is its N-th first ancestor."""
        base, tilde, steps = ref.rpartition("~")
        if tilde and steps.isdigit():
            commit = self.resolve(base)
            for step in range(int(steps)):
                parents = self.trees.parents(commit)
                if not parents:
                    raise RefNotFoundError(f"{ref!r}: the history of {base} is only {step} commits long")
                commit = parents[0]
            return commit
        if paths.looks_like_commit_id(ref):
            found = self.trees.commit(ref) or self._copied(ref)
        else:
            found = self.api.branch(encode(ref)) or self.api.tag(encode(ref)) if _may_be_name(ref) else None
        if found is None:
            raise RefNotFoundError(f"{ref!r} is no branch, tag or commit of {self} (or an ambiguous prefix)")
        return found

    def _copied(self, ref: str) -> str | None:
        return self.api.tag(encode(COPIED + ref))

    def __str__(self) -> str:
        return f"lakefs://{self.settings.repository}"

    def branches(self) -> dict[str, str]:
        """Branch name -> commit id."""
        return _decoded(self.api.branches())

    def tags(self) -> dict[str, str]:
        """Tag name -> commit id."""
        return _decoded(self.api.tags())

    def create_branch(self, name: str, source: str = MAIN) -> str:
        """Create a branch; returns the commit it stands at."""
        commit = self.resolve(source)
        check_new(name, "branch", self.branches(), self.tags())
        try:
            self.api.create_branch(encode(name), commit)
        except RefusedError as error:
            raise StoreError(f"there is a branch {name!r} already, or lakeFS refuses the name ({error})") from error
        return commit

    def delete_branch(self, name: str) -> None:
        """Remove a branch name, never `main`."""
        if name == MAIN:
            raise StoreError(f"branch {MAIN!r} cannot be deleted")
        head = self.api.branch(encode(name)) if _may_be_name(name) else None
        if head is None:
            raise RefNotFoundError(f"there is no branch {name!r}")
        self.objects.bucket.write_mark(f"heads/{head}", {"branch": name})  # lakeFS forgets it; gc must not at once
        self.api.delete_branch(encode(name))

    def tag(self, name: str, ref: str, message: str = "") -> None:
        """Name a commit for good; the same name for the same commit again is no error. lakeFS keeps no tag message."""
        commit = self.resolve(ref)
        tags = self.tags()
        if tags.get(name) == commit:
            return
        if name in tags:
            raise StoreError(f"tag {name!r} already names commit {tags[name][:12]}; it cannot name {commit[:12]} too")
        check_new(name, "tag", self.branches(), tags)
        try:
            self.api.create_tag(encode(name), commit)
        except RefusedError as error:
            raise StoreError(f"tag {name!r} could not be made: {error}") from error

    # --- writing

    def commit(
        self,
        branch: str,
        put: Mapping[str, Path | bytes | ObjectInfo],
        remove: Iterable[str] = (),
        *,
        message: str,
        metadata: Mapping[str, str] | None = None,
        expected_parent: str | None = None,
    ) -> str:
        """One atomic commit; when it would change nothing, the branch stays and its head is returned."""
        encode_message(message, metadata or {})  # refuses what the Git backend refuses
        for path in put:
            _check_path(path)
        removals = [(path.rstrip("/"), folder) for path in remove for _, folder in [paths.check_removal(path)]]
        head = self._branch_head(branch)
        if expected_parent is not None and self.resolve(expected_parent) != head:
            raise LostRaceError(
                f"branch {branch!r} is at {head[:12]}, not at {expected_parent[:12]}; read it again and retry"
            )
        region = self.trees.region(head, put, [path + "/" if folder else path for path, folder in removals])
        removed = {
            p for p in region for path, folder in removals if (p.startswith(path + "/") if folder else p == path)
        }
        clashes = self.trees.clashes({*(region.keys() - removed), *put})
        if clashes:
            raise InvalidPathError(
                f"{clashes[0]} would be a file and the folder of {clashes[1]}; nothing was committed"
            )
        known = {path: replace(info, path=path) for path, info in put.items() if isinstance(info, ObjectInfo)}
        self.objects.keep(known.values())
        digests = self.objects.put({path: new for path, new in put.items() if not isinstance(new, ObjectInfo)})
        wanted = known | {path: ObjectInfo(path, each.sha256, each.size_bytes) for path, each in digests.items()}
        edits: Edits = dict.fromkeys(removed - wanted.keys())
        edits |= {path: info for path, info in wanted.items() if region.get(path) != info}
        if not edits:
            return head
        return self._advance(branch, head, edits, message, metadata or {}, [head])

    def merge(
        self,
        branch: str,
        into: str = MAIN,
        *,
        message: str,
        metadata: Mapping[str, str] | None = None,
        expected_head: str | None = None,
    ) -> str:
        """Merge `branch` (any ref) into `into`; always a commit of its own, unless there is nothing to merge."""
        encode_message(message, metadata or {})
        for attempt in range(MERGE_ATTEMPTS):
            ours, theirs = self._branch_head(into), head_to_merge(self, branch, expected_head)
            base = self.api.merge_base(theirs, ours)
            if base is None:
                raise StoreError(f"{branch!r} and {into!r} have no common ancestor; they cannot be merged")
            if base == theirs:
                return ours
            self._three_way(base, ours, theirs, f"merge {branch!r} into {into!r}")
            with suppress(LostRaceError):
                return self._advance(into, ours, {}, message, metadata or {}, [ours, theirs])
            time.sleep(random.uniform(0, 0.02 * min(attempt + 1, 25)))
        raise LostRaceError(f"{into!r} moved {MERGE_ATTEMPTS} times while {branch!r} was merged; try again later")

    def revert(self, commit: str, branch: str = MAIN, *, message: str) -> str:
        """Undo one commit (of a merge: what it brought to its first parent) by a new commit."""
        undone = self.resolve(commit)
        parents = self.trees.parents(undone)
        if not parents:
            raise StoreError(f"commit {undone[:12]} is the first of the store; there is nothing to go back to")
        encode_message(message, {"reverts": undone})
        head = self._branch_head(branch)
        if self.api.merge_base(undone, head) != undone:
            raise StoreError(f"commit {undone[:12]} is not in the history of {branch!r}; it cannot be reverted there")
        edits = self._three_way(undone, head, parents[0], f"revert {undone[:12]} on {branch!r}")
        return self._advance(branch, head, edits, message, {"reverts": undone}, [head]) if edits else head

    def _three_way(self, base: str, ours: str, theirs: str, action: str) -> Edits:
        """What their side brings to ours. Raises MergeConflictError, or the error of a content that is gone."""
        edits, conflicts = self.trees.three_way(base, ours, theirs)
        if conflicts:
            shown = ", ".join(conflicts[:10]) + (f" and {len(conflicts) - 10} more" if len(conflicts) > 10 else "")
            raise MergeConflictError(f"cannot {action}: both sides changed {shown}. Nothing was changed.", conflicts)
        self.objects.keep(info for info in edits.values() if info)
        return edits

    def _advance(
        self, branch: str, head: str, edits: Edits, message: str, metadata: Mapping[str, str], parents: list[str]
    ) -> str:
        """Move a branch from `head` to a new commit, or raise LostRaceError: see history.py."""
        key = uuid.uuid4().hex
        work = f"{TRANSIT}{int(time.time())}-{key}"
        title, told = history.published(message, metadata, key, parents)
        self.api.create_branch(work, head)
        try:
            self._prepare(work, head, key, edits, parents[1:], title)
            return self.api.merge(work, encode(branch), title, told, lambda: self._made(branch, head, key))
        except RefusedError as error:
            raise self._refusal(branch, head, error) from error
        except StoreUnavailableError as error:
            with suppress(StoreUnavailableError):
                self.api.delete_branch(work)  # so that a request still under way comes to nothing
                if made := self._made(branch, head, key):
                    return made
                raise
            raise StoreUnavailableError(
                f"{error} Whether {branch!r} was moved is not known: compare `headwater log` before running again."
            ) from error
        finally:
            with suppress(StoreError):
                self.api.delete_branch(work)

    def _prepare(self, work: str, head: str, key: str, edits: Edits, sources: list[str], title: str) -> None:
        """Stage and commit everything on a work branch of our own."""
        told = history.transit(key)
        at = head
        for source in sources:
            # the one path in conflict may be the head file: what both sides did to others was compared before
            at = self.api.merge(
                source, work, f"(step of) {title}", told, lambda parent=at: self._moved(work, parent), "dest-wins"
            )
        stage = [info for info in edits.values() if info]
        self.objects.together(
            lambda e: self.api.stage(work, e.path, self.objects.address(e.sha256), e.sha256, e.size_bytes), stage
        )
        self.api.unstage(work, sorted(path for path, info in edits.items() if info is None))
        self.api.stage(work, history.HEAD_FILE, self.objects.address(self.trees.empty()), key, 0)
        self.api.commit(work, at, f"(step of) {title}", told, lambda: self._moved(work, at))

    def _moved(self, work: str, parent: str) -> str | None:
        """Head of a work branch, if a request whose answer was lost has moved it."""
        head = self.api.branch(work)
        return head if head != parent else None

    def _made(self, branch: str, head: str, key: str) -> str | None:
        """The commit with our key, if a request whose answer was lost has made it."""
        at = self.api.branch(encode(branch))
        for commit in self.api.log(at, first_parent=True) if at and at != head else ():
            if history.metadata_of(commit).get(history.KEY) == key:
                return str(commit.id)
            if commit.id == head:
                break
        return None

    def _refusal(self, branch: str, head: str, error: RefusedError) -> StoreError:
        if error.status == 409:
            return LostRaceError(f"branch {branch!r} moved from {head[:12]} meanwhile; read it again and retry")
        if error.status == 404:
            return RefNotFoundError(f"branch {branch!r} was deleted meanwhile; nothing was committed")
        return StoreError(f"lakeFS refuses to change {branch!r} ({error}); nothing was committed")

    # --- reading

    def list(self, ref: str, prefix: str = "", suffix: str = "") -> Iterator[ObjectInfo]:
        """Files under a prefix that end in a suffix, sorted by path."""
        return (info for info in self.trees.list(self.resolve(ref), prefix) if info.path.endswith(suffix))

    def stat(self, ref: str, path: str) -> ObjectInfo:
        """One file."""
        commit = self.resolve(ref)
        info = self.trees.stat(commit, path) if path and path != history.HEAD_FILE else None
        if info is None:
            what = "is a folder" if path and self.api.any_under(commit, path.rstrip("/") + "/") else "does not exist"
            raise PathNotFoundError(f"{path!r} {what} at {ref} ({commit[:12]})")
        return info

    def open(self, ref: str, path: str) -> BinaryIO:
        """Read a file, whole and verified before the first byte is given."""
        return self.local_path(ref, path).open("rb")

    def read_bytes(self, ref: str, path: str) -> bytes:
        """Whole content, its SHA-256 verified."""
        info = self.stat(ref, path)
        return self.objects.read(info.sha256, info.size_bytes, path)

    def local_path(self, ref: str, path: str) -> Path:
        """A verified copy in the local cache: read-only, and named by its digest, not by `path`."""
        info = self.stat(ref, path)
        return self.objects.fetch(info.sha256, info.size_bytes, path)

    def log(self, ref: str = MAIN, path: str | None = None, limit: int | None = None) -> Iterator[CommitInfo]:
        """History, newest first; with `path`, commits that differ there from their first parent."""
        commits = history.without_transit(self.api.log(self.resolve(ref)))
        place = path.strip("/") if path else ""
        return islice((c for c in commits if not place or self.trees.touches(c, place)), limit)

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Paths that differ, sorted."""
        return self.trees.changes(self.resolve(before), self.resolve(after), prefix)

    # --- keeping

    def gc(self, keep: Iterable[str] = (), *, keep_days: float = 14.0, dry_run: bool = False) -> GarbageReport:
        """Delete contents nothing needs; the history itself stays."""
        kept = [self.resolve(ref) for ref in keep]
        return maintenance.collect_garbage(self.api, self.trees, self.objects, kept, keep_days, dry_run)

    def verify(self, ref: str | None = None, fraction: float = 1.0, seed: int = 0) -> VerifyReport:
        """Re-hash contents: of one ref's tree, or of the whole history of all branches and tags."""
        heads = sorted({*self.branches().values(), *self.tags().values()})
        wanted = self.resolve(ref) if ref is not None else None
        return maintenance.verify(self.api, self.trees, self.objects, heads, wanted, fraction, seed)

    def purge(self, sha256s: Iterable[str], *, reason: str) -> int:
        """Takedown. Digests that are not stored are banned all the same; returns bytes freed."""
        digests = sorted({paths.check_sha256(sha256) for sha256 in sha256s})
        if not reason.strip():
            raise StoreError("a takedown needs a reason: it is what readers of the history will be told")
        return sum(self.objects.purge(sha256, reason.strip()) for sha256 in digests)

    def takedowns(self) -> dict[str, str]:
        """SHA-256 -> reason of everything that was taken down."""
        return self.objects.takedowns()

    # --- helpers

    def _branch_head(self, branch: str) -> str:
        head = self.api.branch(encode(branch)) if _may_be_name(branch) else None
        if head is None:
            raise RefNotFoundError(
                f"there is no branch {branch!r}; branches: {', '.join(sorted(self.branches())[:10])}"
            )
        return head


def _may_be_name(ref: str) -> bool:
    return bool(ref) and ref == ref.strip() and ref.isprintable()


def _check_path(path: str) -> None:
    if paths.check_path(path)[0] == history.RESERVED:
        raise InvalidPathError(f"{path!r}: the folder {history.RESERVED} belongs to Headwater itself")


def _decoded(refs: Mapping[str, str]) -> dict[str, str]:
    names: Callable[[str], Any] = decode
    return dict(sorted((name, commit) for coded, commit in refs.items() if (name := names(coded)) is not None))
