"""Partition keys sort into time within their source or recipe."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.identity.partitions import (
    PartitionError,
    check_stamp,
    is_key,
    new_key,
    newest_keys,
    previous_key,
    split_key,
)

KEYS = ["a@20260102T000000Z", "b@20260103T000000Z", "a@20260101T000000Z", "a-b@20260104T000000Z"]


def test_previous_looks_at_the_same_name_only() -> None:
    assert previous_key("a@20260105T000000Z", sorted(KEYS)) == "a@20260102T000000Z"
    assert previous_key("a@20260102T000000Z", sorted(KEYS)) == "a@20260101T000000Z"
    assert previous_key("a@20260101T000000Z", sorted(KEYS)) is None
    assert previous_key("a-b@20260104T000000Z", sorted(KEYS)) is None
    assert previous_key("a@20260105T000000Z", []) is None


def test_the_previous_of_a_thousand_nights_is_found_by_looking_at_a_few() -> None:
    looked = 0

    class Keys(list[str]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looked
            looked += 1
            return super().__getitem__(at)

    nights = Keys(f"web@2{number:03d}0101T000000Z" for number in range(1000))
    assert previous_key("web@25000101T000000Z", nights) == "web@24990101T000000Z"
    assert 0 < looked < 20


def test_newest_per_name() -> None:
    assert newest_keys(KEYS) == {"a": KEYS[0], "b": KEYS[1], "a-b": KEYS[3]}


@pytest.mark.parametrize(
    "key", ["a", "a@", "a@2026", "A@20260101T000000Z", "a/b@20260101T000000Z", "a@20260101T000000Z "]
)
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(PartitionError, match="name@YYYYMMDDTHHMMSSZ"):
        split_key(key)


def test_a_new_key_has_the_form() -> None:
    assert split_key(new_key("site"))[0] == "site"
    with pytest.raises(PartitionError):
        new_key("site", at="yesterday")


@pytest.mark.parametrize("stamp", ["today", "20260230T000000Z", "2026-01-01", "20260101T250000Z", "20260101T000000"])
def test_a_stamp_is_a_real_moment_in_one_form(stamp: str) -> None:
    with pytest.raises(PartitionError, match="is not a time written as YYYYMMDDTHHMMSSZ"):
        check_stamp(stamp)
    assert not is_key(f"site@{stamp}")


def test_a_key_is_a_name_at_a_real_moment() -> None:
    check_stamp("20260131T235900Z")
    assert is_key("site@20260131T235900Z")
    assert not is_key("whatever someone typed")
