"""Random histories against a model that is a dict per branch and a full copy per commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestration.store.contract import InvalidPathError, MergeConflictError
from tests.orchestration.store.conftest import BACKENDS, tree

Tree = dict[str, bytes]
PATHS = st.sampled_from(["a", "b", "a/x", "a/y", "b/x/1", "c/x", "中/文"])
CONTENTS = st.sampled_from([b"", b"0", b"1", b"2"])


def has_clash(content: Tree) -> bool:
    """Whether some path is both a file and the folder of another."""
    return any(other.startswith(path + "/") for path in content for other in content)


def merged(base: Tree, ours: Tree, theirs: Tree) -> Tree | None:
    """Three-way merge by path; None on any conflict."""
    result = {}
    for path in base.keys() | ours.keys() | theirs.keys():
        b, o, t = base.get(path), ours.get(path), theirs.get(path)
        if o not in (t, b) and t != b:
            return None
        chosen = t if o == b else o
        if chosen is not None:
            result[path] = chosen
    return None if has_clash(result) else result


class StoreAgainstModel(RuleBasedStateMachine):
    """Two branches, any order of commits, merges and reverts."""

    backend_name: str

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = BACKENDS[self.backend_name](Path(self.folder.name)).open()
        root = self.store.resolve("main")
        self.trees: dict[str, Tree] = {root: {}}
        self.parents: dict[str, list[str]] = {root: []}
        self.store.create_branch("side")
        self.heads = {"main": root, "side": root}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def record(self, branch: str, commit: str, content: Tree, parents: list[str]) -> None:
        if commit != self.heads[branch]:
            assert commit not in self.trees or self.trees[commit] == content
            self.trees[commit], self.parents[commit] = content, parents
            self.heads[branch] = commit
        assert self.trees[self.heads[branch]] == content

    @rule(
        branch=st.sampled_from(["main", "side"]),
        put=st.dictionaries(PATHS, CONTENTS, max_size=3),
        remove=st.lists(st.one_of(PATHS, st.sampled_from(["a/", "b/", "b/x/", "c/"])), max_size=2),
    )
    def commit(self, branch: str, put: Tree, remove: list[str]) -> None:
        head = self.heads[branch]
        after = {
            path: data
            for path, data in self.trees[head].items()
            if not any(path == r or (r.endswith("/") and path.startswith(r)) for r in remove)
        }
        after |= put
        if has_clash(after):
            with pytest.raises(InvalidPathError):
                self.store.commit(branch, put, remove, message="clash")
            return
        made = self.store.commit(branch, put, remove, message=f"commit {len(self.trees)}", expected_parent=head)
        assert (made == head) == (after == self.trees[head])
        self.record(branch, made, after, [head])

    @rule(into=st.sampled_from(["main", "side"]))
    def merge(self, into: str) -> None:
        other = "side" if into == "main" else "main"
        ours, theirs = self.heads[into], self.heads[other]
        bases = self.best_common_ancestors(ours, theirs)
        if len(bases) != 1:  # criss-cross: which base is taken is not part of the contract
            return
        if bases == {theirs}:
            assert self.store.merge(other, into, message="nothing") == ours
            return
        expected = merged(self.trees[bases.pop()], self.trees[ours], self.trees[theirs])
        if expected is None:
            with pytest.raises(MergeConflictError):
                self.store.merge(other, into, message="conflict")
            return
        made = self.store.merge(other, into, message=f"merge {len(self.trees)}")
        assert made != ours
        self.record(into, made, expected, [ours, theirs])

    @precondition(lambda self: len(self.trees) > 1)
    @rule(data=st.data(), branch=st.sampled_from(["main", "side"]))
    def revert(self, data: st.DataObject, branch: str) -> None:
        head = self.heads[branch]
        candidates = [c for c in self.ancestors(head) if self.parents[c]]
        if not candidates:
            return
        undone = data.draw(st.sampled_from(sorted(candidates, key=list(self.trees).index)))
        expected = merged(self.trees[undone], self.trees[head], self.trees[self.parents[undone][0]])
        if expected is None:
            with pytest.raises(MergeConflictError):
                self.store.revert(undone, branch, message="conflict")
            return
        self.record(branch, self.store.revert(undone, branch, message=f"undo {len(self.trees)}"), expected, [head])

    def ancestors(self, commit: str) -> set[str]:
        found, stack = set(), [commit]
        while stack:
            at = stack.pop()
            if at not in found:
                found.add(at)
                stack += self.parents[at]
        return found

    def best_common_ancestors(self, one: str, two: str) -> set[str]:
        common = self.ancestors(one) & self.ancestors(two)
        return {c for c in common if not any(c in self.ancestors(o) - {o} for o in common)}

    @invariant()
    def heads_read_as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.branches() == self.heads
        for branch, head in self.heads.items():
            assert tree(self.store, branch) == self.trees[head]
            assert {c.id for c in self.store.log(branch)} == self.ancestors(head)
        before, after = (self.trees[self.heads[b]] for b in ("main", "side"))
        changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        assert [c.path for c in self.store.diff("main", "side")] == sorted(changed)


EXAMPLES = {"git": 25, "lakefs": 4}
"""A step takes 5 ms on the disk and 300 ms over HTTP."""


@pytest.mark.parametrize("backend_name", sorted(BACKENDS))
def test_random_histories(backend_name: str) -> None:
    machine = type("Machine", (StoreAgainstModel,), {"backend_name": backend_name})
    machine.TestCase.settings = settings(
        max_examples=EXAMPLES.get(backend_name, 2),
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    machine.TestCase("runTest").runTest()
