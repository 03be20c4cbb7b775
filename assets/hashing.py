"""Choices without chance: a 64-bit hash of a salt and a name, for splits, samples and shuffles.

A draw that depends on nothing but the name stays the same when other documents come and go,
on any number of workers, and in any order of the input rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

TWO_TO_64 = 2.0**64


def hash64(salt: str, names: Iterable[str]) -> np.ndarray:
    """One uint64 per name: the first 8 bytes of SHA-256(salt NUL name), little-endian."""
    prefix = hashlib.sha256(f"{salt}\0".encode())

    def digest(name: str) -> bytes:
        hasher = prefix.copy()
        hasher.update(name.encode())
        return hasher.digest()[:8]

    return np.frombuffer(b"".join(map(digest, names)), dtype="<u8").astype(np.uint64)


def mix64(values: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Re-hash uint64 values with a number (splitmix64): a fresh draw per repeat, vectorised."""
    with np.errstate(over="ignore"):
        mixed = values + (np.asarray(number, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
