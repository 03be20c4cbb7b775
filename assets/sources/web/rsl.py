"""RSL 1.0 (Really Simple Licensing): whether a licence file lets us train on a page without a contract.

Named by `License:` in robots.txt, a `Link: rel=license` header or `<link rel="license">`. Only what costs
nothing and asks for no licence server can be accepted by a crawler; everything else is an offer that
somebody has to sign first, and until then a reservation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lxml.etree as etree

RSL_TYPE = "application/rsl+xml"
MAX_RSL_BYTES = 5_000_000

_TRAINING = {"all", "ai-all", "ai-train", "train-ai", "train-genai"}  # the last two: drafts before 1.0
_FREE = {"free"}


@dataclass(frozen=True)
class RslRule:
    """What one <content> says of training for the URLs of its pattern (a path as in robots.txt, or a whole URL)."""

    pattern: str
    permits: bool


RESERVED: tuple[RslRule, ...] = (RslRule("/", False),)
"""The rules of a licence file that cannot be read: it was put there to set terms, which we then do not know."""


def rsl_rules(body: bytes) -> tuple[RslRule, ...]:
    """Rules of a licence file in file order; RESERVED when it is no RSL."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(body[:MAX_RSL_BYTES], parser)
    except (etree.LxmlError, ValueError):
        return RESERVED
    if _name(root) != "rsl":
        return RESERVED
    return tuple(RslRule(content.get("url", "/"), _permits(content)) for content in _children(root, "content"))


def _permits(content: Any) -> bool:
    """Whether one of the licences lets anybody train for nothing. A content without licences reserves nothing."""
    if content.get("server"):
        return False  # "clients must obtain a license for this asset, even if the license is free"
    licences = list(_children(content, "license"))
    return not licences or any(_is_free_for_training(licence) for licence in licences)


def _is_free_for_training(licence: Any) -> bool:
    permitted = [_tokens(e) for e in _children(licence, "permits") if e.get("type") == "usage"]
    prohibited = [_tokens(e) for e in _children(licence, "prohibits") if e.get("type") == "usage"]
    if permitted and not _TRAINING & set().union(*permitted):
        return False
    if any(_TRAINING & tokens for tokens in prohibited):
        return False
    payments = [set(re.split(r"[\s,]+", e.get("type", "free").strip().lower())) for e in _children(licence, "payment")]
    return not payments or any(types <= _FREE for types in payments)


def _tokens(element: Any) -> set[str]:
    return set(re.split(r"[\s,]+", (element.text or "").strip().lower()))


def _children(element: Any, name: str) -> Iterable[Any]:
    return (child for child in element if _name(child) == name)


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
