"""Which payloads a source's previous crawl holds, in 26 bytes each: what is read again unchanged is not stored again."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.build import Segment
from assets.schemas import TIMESTAMP

_COLUMNS = ("url", "content_sha256", "drop_reason", "crawl", "fetched_at", "payload_crawl", "payload_fetched_at")


@dataclass(frozen=True)
class KnownPayloads:
    """Sorted 128-bit hashes of (URL, SHA-256), with the crawl that stored each payload, and when."""

    high: np.ndarray
    low: np.ndarray
    crawl: np.ndarray
    fetched_ms: np.ndarray
    crawls: tuple[str, ...]

    @classmethod
    def of(cls, previous: Segment | None) -> KnownPayloads:
        """Of a raw_crawl; empty without one. Rows that were dropped hold no payload."""
        keys: list[bytes] = []
        crawls: dict[str, int] = {}
        numbers: list[np.ndarray] = []
        times: list[np.ndarray] = []
        parts = previous.parts("captures") if previous else []
        for part in parts:
            names = set(pq.read_schema(part).names)  # crawls of older versions have fewer columns
            for batch in pq.ParquetFile(part).iter_batches(columns=[name for name in _COLUMNS if name in names]):
                kept = batch.filter(pc.is_null(batch["drop_reason"]))
                keys += map(_key, kept["url"].to_pylist(), kept["content_sha256"].to_pylist())
                stored = _first_known(kept, "payload_crawl", "crawl").dictionary_encode()
                named = [crawls.setdefault(name, len(crawls)) for name in stored.dictionary.to_pylist()]
                numbers.append(np.array(named, dtype=np.uint16)[stored.indices.to_numpy()])
                at = _first_known(kept, "payload_fetched_at", "fetched_at")
                times.append(at.cast(TIMESTAMP).cast(pa.int64()).to_numpy())
        pairs = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
        order = np.argsort(pairs[:, 0], kind="stable")
        number = np.concatenate([*numbers, np.zeros(0, np.uint16)])[order]
        fetched = np.concatenate([*times, np.zeros(0, np.int64)])[order]
        return cls(pairs[order, 0].copy(), pairs[order, 1].copy(), number, fetched, tuple(crawls))

    def find(self, url: str, content_sha256: str) -> tuple[str, datetime] | None:
        """(crawl that holds this very payload of this URL, when it was fetched), or None when it is new."""
        if not len(self.high):
            return None
        key = _key(url, content_sha256)
        high, low = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
        at = bisect_left(self.high.data, high)  # a fifth of the time that numpy takes for one number
        while at < len(self.high) and self.high[at] == high:
            if self.low[at] == low:
                return self.crawls[self.crawl[at]], datetime.fromtimestamp(int(self.fetched_ms[at]) / 1000, UTC)
            at += 1
        return None


def _first_known(rows: pa.RecordBatch, *columns: str) -> pa.Array:
    return pc.coalesce(*(rows[name] for name in columns if name in rows.schema.names))


def _key(url: str, content_sha256: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{content_sha256}".encode(), digest_size=16).digest()
