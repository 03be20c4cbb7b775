"""Where a lakeFS store is and how to reach it: from its URL and the environment, never from a file.

lakefs://REPOSITORY
HEADWATER_LAKEFS_ENDPOINT                      https://lakefs.example.org
LAKECTL_CREDENTIALS_ACCESS_KEY_ID, ..._SECRET_ACCESS_KEY      as for lakectl
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3, ...    as for every S3 client
HEADWATER_LAKEFS_NAMESPACE                     s3://bucket/prefix, only to create the repository
HEADWATER_OBJECT_CACHE                         folder of verified copies (default: in HEADWATER_HOME)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestration.config import REPOSITORY
from orchestration.store.contract import StoreError

ENDPOINT = "HEADWATER_LAKEFS_ENDPOINT"
NAMESPACE = "HEADWATER_LAKEFS_NAMESPACE"
CACHE = "HEADWATER_OBJECT_CACHE"
KEY_ID, SECRET = "LAKECTL_CREDENTIALS_ACCESS_KEY_ID", "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY"
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")


@dataclass(frozen=True)
class Patience:
    """How long a server may fail before an operation is given up."""

    attempts: int = 8
    first_wait_s: float = 0.2
    longest_wait_s: float = 20.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    """Longest silence; a merge of many changes is one request."""


@dataclass(frozen=True)
class LakefsSettings:
    """One lakeFS repository. The secrets are left out of every printed form."""

    endpoint: str
    repository: str
    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    cache: Path
    namespace: str | None = None
    patience: Patience = Patience()

    @classmethod
    def from_environment(cls, url: str, environ: Mapping[str, str] = os.environ) -> LakefsSettings:
        """Read the settings of `lakefs://REPOSITORY`. Raises StoreError naming the variable that is missing."""
        repository = url.removeprefix("lakefs://").rstrip("/")
        if not _REPOSITORY.fullmatch(repository):
            raise StoreError(
                f"{url}: lakeFS repository names have 3 to 63 lower-case letters, digits and -; give lakefs://REPOSITORY"
            )
        missing = [name for name in (ENDPOINT, KEY_ID, SECRET) if not environ.get(name)]
        if missing:
            raise StoreError(f"{url}: set {', '.join(missing)} to reach the lakeFS server (docs/store.md)")
        endpoint = environ[ENDPOINT].rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise StoreError(f"{ENDPOINT} must be http(s)://HOST[:PORT] without a user or password")
        home = Path(environ.get("HEADWATER_HOME") or REPOSITORY / ".headwater")
        cache = Path(environ.get(CACHE) or home / "object-cache")
        return cls(endpoint, repository, environ[KEY_ID], environ[SECRET], cache, environ.get(NAMESPACE))


def objects_area(namespace: str) -> str:
    """Where our objects lie: beside the namespace of lakeFS, never in it, or lakeFS's own gc would count them as its."""
    place = namespace.rstrip("/")
    has_prefix = "/" in place.removeprefix("s3://")
    return f"{place}-objects" if has_prefix else f"{place}/headwater-objects"
