"""The requests to a lakeFS server that the store needs, each repeated until it has a definite answer.

A request that changes something is given `done`: how to see that an earlier attempt was carried out
although its answer was lost. So nothing is ever done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import lakefs_client
from lakefs_client import models
from lakefs_client.client import LakeFSClient
from lakefs_client.exceptions import ApiException, OpenApiException
from urllib3.exceptions import HTTPError

from orchestration.store.contract import StoreError
from orchestration.store.lakefs.retrying import TransientError, persist, retry_after_s
from orchestration.store.lakefs.settings import KEY_ID, SECRET, LakefsSettings

PAGE = 1000  # the most that lakeFS gives at once
T = TypeVar("T")


class RefusedError(StoreError):
    """A definite answer other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"lakeFS answers {status}: {message}")
        self.status = status
        self.message = message


class LakefsApi:
    """One repository of one server."""

    def __init__(self, settings: LakefsSettings) -> None:
        configuration: Any = lakefs_client.Configuration(
            host=settings.endpoint, username=settings.key_id, password=settings.secret
        )
        configuration.retries = False  # counted here, once, for all causes
        self._client = LakeFSClient(configuration)
        self._settings = settings
        self._repository = settings.repository

    def _call(
        self,
        action: str,
        request: Callable[..., Any],
        *arguments: Any,
        done: Callable[[], T | None] | None = None,
        **options: Any,
    ) -> Any:
        """The answer of one request. Raises RefusedError, or StoreError for refused credentials."""
        patience = self._settings.patience
        options["_request_timeout"] = (patience.connect_timeout_s, patience.read_timeout_s)

        def attempt(number: int) -> Any:
            if number > 1 and done is not None and (found := done()) is not None:
                return found
            try:
                return request(*arguments, **options)
            except ApiException as error:
                failure = self._judge(action, error)
            except (OpenApiException, OSError, ValueError, HTTPError) as error:
                # no connection, a time-out, a cut or an unreadable answer: all may be repeated
                failure = TransientError(f"{type(error).__name__}: {str(error)[:200]}")
            if isinstance(failure, RefusedError) and done is not None and (found := done()) is not None:
                return found
            raise failure

        return persist(attempt, patience, f"{action} on {self._settings.endpoint}")

    def _judge(self, action: str, error: ApiException) -> Exception:
        status = int(error.status or 0)
        headers = error.headers or {}
        body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
        if status == 429 or status >= 500 or status == 0:
            return TransientError(f"HTTP {status} {body[:200]}".strip(), retry_after_s(headers.get("Retry-After")))
        if status in (401, 403):
            return StoreError(
                f"could not {action}: lakeFS at {self._settings.endpoint} refuses ({status}). Set {KEY_ID} and {SECRET} "
                "to keys that may read and write this repository."
            )
        return RefusedError(status, body[:500])

    def _pages(self, action: str, request: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
        after = options.pop("after", "")
        while True:
            page = self._call(action, request, *arguments, after=after, amount=PAGE, **options)
            yield from page.results
            if not page.pagination.has_more:
                return
            if page.pagination.next_offset == after:
                raise StoreError(f"could not {action}: lakeFS repeats a page of its answer")
            after = page.pagination.next_offset

    # --- repository

    def namespace(self) -> str | None:
        """Storage namespace of the repository, or None if there is no such repository."""
        try:
            found = self._call("open the repository", self._client.repositories_api.get_repository, self._repository)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise
        return str(found.storage_namespace)

    def create_repository(self, namespace: str) -> None:
        """Create the repository with an empty `main`."""
        wanted = models.RepositoryCreation(name=self._repository, storage_namespace=namespace, default_branch="main")
        api = self._client.repositories_api
        self._call("create the repository", api.create_repository, wanted, done=self.namespace)

    def server_version(self) -> str:
        """Version of the server, which proves endpoint and credentials."""
        found = self._call("ask for the version", self._client.config_api.get_config)
        return str(found.version_config.version) if "version_config" in found else "unknown"

    # --- refs

    def branch(self, name: str) -> str | None:
        """Head of a branch, or None."""
        return self._ref(self._client.branches_api.get_branch, name)

    def tag(self, name: str) -> str | None:
        """Commit of a tag, or None."""
        return self._ref(self._client.tags_api.get_tag, name)

    def _ref(self, request: Callable[..., Any], name: str) -> str | None:
        try:
            return str(self._call(f"read the ref {name}", request, self._repository, name).commit_id)
        except RefusedError as error:
            if error.status in (400, 404):  # 400: not a possible name, so there is none
                return None
            raise

    def branches(self) -> dict[str, str]:
        """Name -> commit id."""
        found = self._pages("list the branches", self._client.branches_api.list_branches, self._repository)
        return {str(ref.id): str(ref.commit_id) for ref in found}

    def tags(self) -> dict[str, str]:
        """Name -> commit id."""
        found = self._pages("list the tags", self._client.tags_api.list_tags, self._repository)
        return {str(ref.id): str(ref.commit_id) for ref in found}

    def create_branch(self, name: str, commit: str) -> None:
        """Create a branch. Raises RefusedError with 409 if another one of that name exists."""
        wanted = models.BranchCreation(name=name, source=commit)
        self._once(
            f"create the branch {name}",
            lambda: commit if self.branch(name) == commit else None,
            self._client.branches_api.create_branch,
            self._repository,
            wanted,
        )

    def _once(self, action: str, made: Callable[[], str | None], request: Callable[..., Any], *arguments: Any) -> None:
        """A creation whose name may be taken: only after a lost answer can what is there be our own."""
        lost = False

        def tracked(*args: Any, **options: Any) -> Any:
            nonlocal lost
            if lost and made() is not None:
                return None
            lost = True
            return request(*args, **options)

        self._call(action, tracked, *arguments)

    def create_tag(self, name: str, commit: str) -> None:
        """Create a tag. Raises RefusedError with 409 if another one of that name exists."""
        wanted = models.TagCreation(id=name, ref=commit)
        self._once(
            f"create the tag {name}",
            lambda: commit if self.tag(name) == commit else None,
            self._client.tags_api.create_tag,
            self._repository,
            wanted,
        )

    def delete_branch(self, name: str) -> bool:
        """Delete a branch; false if there was none."""
        try:
            self._call(f"delete the branch {name}", self._client.branches_api.delete_branch, self._repository, name)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    # --- commits

    def commit_of(self, ref: str) -> Any | None:
        """The commit of an id or a unique prefix of one, or None."""
        try:
            return self._call(f"read the commit {ref}", self._client.commits_api.get_commit, self._repository, ref)
        except RefusedError as error:
            if error.status in (400, 404):
                return None
            raise

    def log(self, commit: str, *, first_parent: bool = False) -> Iterator[Any]:
        """A commit and all it descends from, newest first."""
        api = self._client.refs_api
        options: dict[str, Any] = {"first_parent": True} if first_parent else {}
        return self._pages(f"read the history of {commit}", api.log_commits, self._repository, commit, **options)

    def merge_base(self, source: str, destination: str) -> str | None:
        """The best common ancestor of two commits, as merges will use it."""
        api = self._client.refs_api
        found = self._call("find the common ancestor", api.find_merge_base, self._repository, source, destination)
        return str(found.base_commit_id) or None

    def diff(self, before: str, after: str, prefix: str = "") -> Iterator[Any]:
        """Paths that differ between two commits, sorted."""
        options = {"type": "two_dot", **({"prefix": prefix} if prefix else {})}
        return self._pages("compare", self._client.refs_api.diff_refs, self._repository, before, after, **options)

    def commit(
        self, branch: str, parent: str, message: str, metadata: Mapping[str, str], done: Callable[[], str | None]
    ) -> str:
        """Commit what is staged on a branch of ours that stood at `parent`."""
        wanted = models.CommitCreation(message=message, metadata=dict(metadata))
        found = self._call(
            f"commit to {branch}", self._client.commits_api.commit, self._repository, branch, wanted, done=done
        )
        return found if isinstance(found, str) else str(found.id)

    def merge(
        self,
        source: str,
        destination: str,
        message: str,
        metadata: Mapping[str, str],
        done: Callable[[], str | None],
        strategy: str | None = None,
    ) -> str:
        """Merge on the server. Raises RefusedError: 409 conflict, 400 nothing to merge, 404 no such ref."""
        options = {"strategy": strategy} if strategy else {}
        wanted = models.Merge(message=message, metadata=dict(metadata), **options)
        api = self._client.refs_api
        found = self._call(
            f"merge into {destination}",
            api.merge_into_branch,
            self._repository,
            source,
            destination,
            merge=wanted,
            done=done,
        )
        return found if isinstance(found, str) else str(found.reference)

    # --- objects

    def objects(self, ref: str, prefix: str = "", after: str = "") -> Iterator[Any]:
        """Entries under a prefix, sorted by path."""
        options = {"prefix": prefix} if prefix else {}
        api = self._client.objects_api
        return self._pages(f"list {prefix}", api.list_objects, self._repository, ref, after=after, **options)

    def any_under(self, ref: str, prefix: str) -> bool:
        """Whether a folder has anything in it."""
        api = self._client.objects_api
        found = self._call(f"list {prefix}", api.list_objects, self._repository, ref, prefix=prefix, amount=1)
        return bool(found.results)

    def stat(self, ref: str, path: str) -> Any | None:
        """One entry, or None."""
        try:
            return self._call(f"look for {path}", self._client.objects_api.stat_object, self._repository, ref, path)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def stage(self, branch: str, path: str, address: str, sha256: str, size_bytes: int) -> None:
        """Put an entry that points at stored bytes; lakeFS does not touch them."""
        wanted = models.ObjectStageCreation(
            physical_address=address, checksum=sha256, size_bytes=size_bytes, content_type="application/octet-stream"
        )
        api = self._client.internal_api
        self._call(f"stage {path}", api.stage_object, self._repository, branch, path, wanted)

    def unstage(self, branch: str, paths: list[str]) -> None:
        """Remove entries from a branch."""
        for start in range(0, len(paths), PAGE):
            some = models.PathList(paths=paths[start : start + PAGE])
            api = self._client.objects_api
            found = self._call(f"remove {len(paths)} paths", api.delete_objects, self._repository, branch, some)
            if found.errors:
                raise StoreError(f"lakeFS could not remove {len(found.errors)} paths: {found.errors[0].message}")
