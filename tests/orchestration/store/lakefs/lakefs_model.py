"""What a lakeFS server does, in memory: the behaviour of its documented API, for the endpoints we use.

Merge and diff compare entries by size, checksum, metadata and content type; a merge with nothing on the source
side, and a commit that changes no entry, are refused ("no changes"); a merge into a branch with uncommitted
entries is refused; ids are digests of the commit, so the same commit made twice is one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

BRANCH_NAME = re.compile(r"\w[-\w]*", re.ASCII)
TAG_NAME = re.compile(r"(?!@$)(?!.*(\.\.|@\{|/|[\^:?*\[\\\s]))(?!.*(\.|\.lock)$).+", re.ASCII)
REPOSITORY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
COMMIT_ID = re.compile(r"[0-9a-f]{1,64}")
Tree = dict[str, dict[str, Any]]


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Branch:
    def __init__(self, commit: str) -> None:
        self.commit = commit
        self.staged: dict[str, dict[str, Any] | None] = {}


class Repository:
    def __init__(self, name: str, namespace: str) -> None:
        self.name, self.namespace = name, namespace
        self.commits: dict[str, dict[str, Any]] = {}
        self.trees: dict[str, Tree] = {}
        self.generations: dict[str, int] = {}
        self.branches: dict[str, Branch] = {}
        self.tags: dict[str, str] = {}

    def add(self, tree: Tree, parents: list[str], message: str, metadata: dict[str, str]) -> str:
        meta_range = digest({path: identity(entry) for path, entry in sorted(tree.items())})
        commit = {
            "parents": parents,
            "committer": "tester",
            "message": message,
            "creation_date": int(time.time()),
            "meta_range_id": meta_range,
            "metadata": metadata,
        }
        commit_id = digest(commit)
        self.commits[commit_id] = {"id": commit_id, **commit}
        self.trees[commit_id] = tree
        self.generations[commit_id] = 1 + max((self.generations[p] for p in parents), default=0)
        return commit_id

    def resolve(self, ref: str) -> str:
        if ref in self.commits:
            return ref
        if ref in self.branches:
            return self.branches[ref].commit
        if ref in self.tags:
            return self.tags[ref]
        found = [each for each in self.commits if each.startswith(ref)] if COMMIT_ID.fullmatch(ref) else []
        if len(found) != 1:
            raise ApiError(404, f"{ref}: not found")
        return found[0]

    def branch(self, name: str) -> Branch:
        if name not in self.branches:
            raise ApiError(404, "branch not found")
        return self.branches[name]

    def tree_of(self, ref: str) -> Tree:
        if ref not in self.commits and ref in self.branches:
            branch = self.branches[ref]
            return applied(self.trees[branch.commit], branch.staged)
        return self.trees[self.resolve(ref)]

    def history(self, commit: str, first_parent: bool = False) -> list[str]:
        """By generation, then date, newest first, as lakeFS orders its log."""
        seen, queue, ordered = {commit}, [self._rank(commit)], []
        while queue:
            at = heapq.heappop(queue)[-1]
            ordered.append(at)
            parents = self.commits[at]["parents"]
            for parent in parents[:1] if first_parent else parents:
                if parent not in seen:
                    seen.add(parent)
                    heapq.heappush(queue, self._rank(parent))
        return ordered

    def _rank(self, commit: str) -> tuple[int, int, str]:
        return (-self.generations[commit], -self.commits[commit]["creation_date"], commit)

    def merge_base(self, one: str, two: str) -> str:
        common = set(self.history(one)) & set(self.history(two))
        return next(each for each in self.history(one) if each in common)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def identity(entry: dict[str, Any] | None) -> str | None:
    """What lakeFS compares: not the address, not the time."""
    if entry is None:
        return None
    return digest([entry["size_bytes"], entry["checksum"], entry.get("metadata", {}), entry.get("content_type", "")])


def applied(tree: Tree, staged: dict[str, dict[str, Any] | None]) -> Tree:
    merged = {**tree, **staged}
    return {path: entry for path, entry in merged.items() if entry is not None}


def page_of(items: Iterable[Any], key: Callable[[Any], str], amount: int) -> dict[str, Any]:
    if not -1 <= amount <= 1000:
        raise ApiError(400, "amount out of range")
    found, size = list(items), amount if amount > 0 else 100
    some = found[:size]
    more = len(found) > size
    pagination = {
        "has_more": more,
        "next_offset": key(some[-1]) if more else "",
        "results": len(some),
        "max_per_page": 1000,
    }
    return {"pagination": pagination, "results": some}


class Lakefs:
    """One method for each operation of the API, named by its operation id; each returns (status, body)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.lock = threading.RLock()

    def _repository(self, name: str) -> Repository:
        if name not in self.repositories:
            raise ApiError(404, "repository not found")
        return self.repositories[name]

    def get_config(self) -> tuple[int, Any]:
        return 200, {"version_config": {"version": "1.44.0-headwater-test"}}

    # --- repositories and refs

    def create_repository(self, repository_creation: dict[str, Any], bare: bool = False) -> tuple[int, Any]:
        name, namespace = repository_creation["name"], repository_creation["storage_namespace"]
        if not REPOSITORY_NAME.fullmatch(name) or not namespace.startswith("s3://"):
            raise ApiError(400, "invalid value")
        if name in self.repositories:
            raise ApiError(409, "repository already exists: not unique")
        repository = self.repositories[name] = Repository(name, namespace)
        first = repository.add({}, [], "Repository created", {})
        repository.branches[repository_creation.get("default_branch", "main")] = Branch(first)
        return 201, self._told(repository)

    def _told(self, repository: Repository) -> dict[str, Any]:
        told = {"id": repository.name, "creation_date": 0, "default_branch": "main"}
        return {**told, "storage_namespace": repository.namespace}

    def get_repository(self, repository: str) -> tuple[int, Any]:
        return 200, self._told(self._repository(repository))

    def list_branches(self, repository: str, prefix: str = "", after: str = "", amount: int = 100) -> tuple[int, Any]:
        found = self._repository(repository).branches
        refs = [
            {"id": n, "commit_id": b.commit} for n, b in sorted(found.items()) if n > after and n.startswith(prefix)
        ]
        return 200, page_of(refs, lambda ref: ref["id"], amount)

    def list_tags(self, repository: str, prefix: str = "", after: str = "", amount: int = 100) -> tuple[int, Any]:
        found = self._repository(repository).tags
        refs = [{"id": n, "commit_id": c} for n, c in sorted(found.items()) if n > after and n.startswith(prefix)]
        return 200, page_of(refs, lambda ref: ref["id"], amount)

    def get_branch(self, repository: str, branch: str) -> tuple[int, Any]:
        if not BRANCH_NAME.fullmatch(branch):
            raise ApiError(400, "branch id: invalid value: validation error")
        return 200, {"id": branch, "commit_id": self._repository(repository).branch(branch).commit}

    def get_tag(self, repository: str, tag: str) -> tuple[int, Any]:
        if not TAG_NAME.fullmatch(tag):
            raise ApiError(400, "tag id: invalid value: validation error")
        tags = self._repository(repository).tags
        if tag not in tags:
            raise ApiError(404, "tag not found")
        return 200, {"id": tag, "commit_id": tags[tag]}

    def create_branch(self, repository: str, branch_creation: dict[str, Any]) -> tuple[int, Any]:
        found, name = self._repository(repository), branch_creation["name"]
        if not BRANCH_NAME.fullmatch(name):
            raise ApiError(400, "branch id: invalid value: validation error")
        commit = found.resolve(branch_creation["source"])
        if name in found.branches:
            raise ApiError(409, "branch already exists: not unique")
        found.branches[name] = Branch(commit)
        return 201, commit

    def create_tag(self, repository: str, tag_creation: dict[str, Any]) -> tuple[int, Any]:
        found, name = self._repository(repository), tag_creation["id"]
        if not TAG_NAME.fullmatch(name):
            raise ApiError(400, "tag id: invalid value: validation error")
        if name in found.tags:
            raise ApiError(409, "tag already exists: not unique")
        found.tags[name] = found.resolve(tag_creation["ref"])
        return 201, {"id": name, "commit_id": found.tags[name]}

    def delete_branch(self, repository: str, branch: str, force: bool = False) -> tuple[int, Any]:
        found = self._repository(repository)
        found.branch(branch)
        if branch == "main":
            raise ApiError(403, "cannot delete repository default branch")
        del found.branches[branch]
        return 204, None

    # --- commits

    def get_commit(self, repository: str, commit_id: str) -> tuple[int, Any]:
        found = self._repository(repository)
        return 200, found.commits[found.resolve(commit_id)]

    def log_commits(
        self, repository: str, ref: str, after: str = "", amount: int = 100, first_parent: bool = False
    ) -> tuple[int, Any]:
        found = self._repository(repository)
        ordered = found.history(found.resolve(ref), first_parent)
        if after:
            ordered = ordered[ordered.index(found.resolve(after)) + 1 :]
        return 200, page_of((found.commits[each] for each in ordered), lambda commit: commit["id"], amount)

    def commit(
        self, repository: str, branch: str, commit_creation: dict[str, Any], source_metarange: str = ""
    ) -> tuple[int, Any]:
        found = self._repository(repository)
        at = found.branch(branch)
        tree = applied(found.trees[at.commit], at.staged)
        at.staged = {}
        if differing(found.trees[at.commit], tree) == [] and not commit_creation.get("allow_empty"):
            raise ApiError(400, "commit: no changes")
        at.commit = found.add(tree, [at.commit], commit_creation["message"], commit_creation.get("metadata", {}))
        return 201, found.commits[at.commit]

    def find_merge_base(self, repository: str, source_ref: str, destination_branch: str) -> tuple[int, Any]:
        found = self._repository(repository)
        source, destination = found.resolve(source_ref), found.resolve(destination_branch)
        base = found.merge_base(source, destination)
        return 200, {"source_commit_id": source, "destination_commit_id": destination, "base_commit_id": base}

    def merge_into_branch(
        self, repository: str, source_ref: str, destination_branch: str, merge: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        wanted, found = merge or {}, self._repository(repository)
        at, source = found.branch(destination_branch), found.resolve(source_ref)
        if at.staged:
            raise ApiError(400, f"{destination_branch}: uncommitted changes (dirty branch)")
        base = found.trees[found.merge_base(source, at.commit)]
        theirs, ours = found.trees[source], found.trees[at.commit]
        strategy = wanted.get("strategy", "")
        if strategy not in ("", "dest-wins", "source-wins"):
            raise ApiError(400, "invalid merge strategy")
        if not differing(base, theirs) and not wanted.get("allow_empty"):
            raise ApiError(400, "no changes")
        tree = dict(ours)
        for path in differing(base, theirs):
            b, o, t = (identity(side.get(path)) for side in (base, ours, theirs))
            if o not in (b, t) and not strategy:
                return 409, {"reference": ""}
            if o in (b, t) or strategy == "source-wins":
                tree.pop(path, None)
                tree |= {path: theirs[path]} if path in theirs else {}
        metadata = {**wanted.get("metadata", {}), ".lakefs.merge.strategy": strategy or "default"}
        at.commit = found.add(tree, [at.commit, source], wanted.get("message", ""), metadata)
        return 200, {"reference": at.commit}

    def diff_refs(
        self,
        repository: str,
        left_ref: str,
        right_ref: str,
        after: str = "",
        amount: int = 100,
        prefix: str = "",
        type: str = "three_dot",
    ) -> tuple[int, Any]:
        found = self._repository(repository)
        left, right = found.resolve(left_ref), found.resolve(right_ref)
        if type == "three_dot":
            left = found.merge_base(left, right)
        before, now = found.trees[left], found.trees[right]
        changes = []
        for path in differing(before, now):
            if path.startswith(prefix) and path > after:
                kind = "added" if path not in before else "removed" if path not in now else "changed"
                size = (now.get(path) or before[path])["size_bytes"]
                changes.append({"type": kind, "path": path, "path_type": "object", "size_bytes": size})
        return 200, page_of(changes, lambda change: change["path"], amount)

    # --- objects

    def list_objects(
        self,
        repository: str,
        ref: str,
        prefix: str = "",
        after: str = "",
        amount: int = 100,
        user_metadata: bool = True,
    ) -> tuple[int, Any]:
        tree = self._repository(repository).tree_of(ref)
        found = [tree[path] for path in sorted(tree) if path.startswith(prefix) and path > after]
        return 200, page_of(found, lambda entry: entry["path"], amount)

    def stat_object(self, repository: str, ref: str, path: str) -> tuple[int, Any]:
        tree = self._repository(repository).tree_of(ref)
        if path not in tree:
            raise ApiError(404, "not found")
        return 200, tree[path]

    def stage_object(
        self, repository: str, branch: str, path: str, object_stage_creation: dict[str, Any]
    ) -> tuple[int, Any]:
        at = self._repository(repository).branch(branch)
        if not object_stage_creation["physical_address"].startswith("s3://"):
            raise ApiError(400, "physical address is not valid for block adapter: s3")
        entry = {"path": path, "path_type": "object", "mtime": int(time.time()), **object_stage_creation}
        at.staged[path] = entry
        return 201, entry

    def delete_objects(self, repository: str, branch: str, path_list: dict[str, Any]) -> tuple[int, Any]:
        at = self._repository(repository).branch(branch)
        if len(path_list["paths"]) > 1000:
            raise ApiError(400, "request size exceeded, max paths is set to 1000")
        at.staged |= dict.fromkeys(path_list["paths"])
        return 200, {"errors": []}


def differing(one: Tree, two: Tree) -> list[str]:
    return sorted(p for p in one.keys() | two.keys() if identity(one.get(p)) != identity(two.get(p)))
