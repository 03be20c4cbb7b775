"""The versioned store. `open_store` is the one way in; contract.py says what a store does."""

from __future__ import annotations

from pathlib import Path

from orchestration.store.contract import CorruptObjectError, StoreError, VerifyReport, VersionedStore


def open_store(url_or_path: str | Path) -> VersionedStore:
    """Open a store, creating a local one that does not exist yet.

    A plain path or `git:PATH` is the embedded Git store; `lakefs://REPOSITORY` is a lakeFS server, which the
    environment names (lakefs/settings.py).
    """
    text = str(url_or_path)
    scheme, separator, _ = text.partition("://")
    if separator and scheme == "lakefs":
        from orchestration.store.lakefs.settings import LakefsSettings
        from orchestration.store.lakefs.store import LakefsStore  # its SDK and S3 client cost half a second

        return LakefsStore(LakefsSettings.from_environment(text))
    if separator:
        raise StoreError(f"{text}: unknown kind of store {scheme!r}; give a path, or lakefs://REPOSITORY")
    from orchestration.store.git.store import GitStore  # pygit2 costs 40 ms, only for those who need it

    return GitStore.at(Path(text.removeprefix("git:")))


def verify_store(url_or_path: str | Path, ref: str | None = None, fraction: float = 1.0, seed: int = 0) -> VerifyReport:
    """Verify a store, also one that is too damaged to be opened for work. Never creates one."""
    text = str(url_or_path)
    if "://" in text:
        return open_store(text).verify(ref, fraction, seed)
    from orchestration.store.git.store import GitStore
    from orchestration.store.git.verify import verify_folder

    folder = Path(text.removeprefix("git:"))
    try:
        return GitStore.at(folder, create=False, damaged=True).verify(ref, fraction, seed)
    except CorruptObjectError:
        report = verify_folder(folder)
        if not report.damage or ref is not None:
            raise
        return report
