"""Names of crawls: `source@YYYYMMDDTHHMMSSZ`, the partition key of every asset that follows a crawl."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from assets.build import BuildError

_CRAWL = re.compile(r"([a-z0-9][a-z0-9-]*)@(\d{8}T\d{6}Z)")


def parse_crawl(partition: str | None) -> tuple[str, datetime]:
    """Source and time of a crawl partition. Raises BuildError that says the expected form."""
    match = _CRAWL.fullmatch(partition or "")
    if match:
        try:
            return match[1], datetime.strptime(match[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass  # eight digits that are no date
    raise BuildError(f"{partition!r} is not a crawl: a crawl is named source@YYYYMMDDTHHMMSSZ (UTC)")
