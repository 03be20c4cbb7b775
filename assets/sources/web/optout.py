"""What a site says about crawling and about training: robots.txt and the opt-out signals around it.

Read per host: robots.txt (RFC 9309), its `Content-Usage` (IETF AI preferences) and `Content-Signal`
lines, `/.well-known/tdmrep.json`, ai.txt. Read per page: headers and meta elements. A page that any
of them keeps from training is recorded with the signal's name, and its content is not stored.
RSL licences (`License:` in robots.txt, `rel=license` of a page) are read by rsl.py: terms that ask for more
than we can accept without a contract reserve the page.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from protego import Protego

from assets.sources.web.rsl import RslRule

AGENT = "headwater"
"""Our product token: the name that robots.txt groups and X-Robots-Tag prefixes may address."""

_TRAINING_KEYS = {"train-ai", "train-genai", "ai-train"}
_ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for at least 500 KiB to be parsed


@dataclass(frozen=True)
class UsageRule:
    """One `Content-Usage` or `Content-Signal` line: what it says of training for paths like `pattern`."""

    signal: str
    pattern: str
    forbids: bool


@dataclass(frozen=True)
class SitePolicy:
    """Everything one origin says for all of its pages."""

    robots: Protego | None = None
    robots_sha256: str | None = None
    usage: tuple[UsageRule, ...] = ()
    tdm: tuple[tuple[str, bool], ...] = ()
    """(location pattern, rights reserved) in file order: the first match decides."""
    ai_txt: Protego | None = None
    rsl_licences: tuple[str, ...] = ()
    """URLs of the licence files that robots.txt names."""
    rsl: tuple[RslRule, ...] = ()
    """What those files say, as far as they were read."""
    sitemaps: tuple[str, ...] = ()

    def may_fetch(self, url: str) -> bool:
        """robots.txt alone."""
        return self.robots is None or self.robots.can_fetch(url, AGENT)

    @property
    def crawl_delay_s(self) -> float:
        """Seconds between requests that robots.txt asks for; 0 when it does not."""
        return float((self.robots.crawl_delay(AGENT) if self.robots else None) or 0.0)

    def opt_out(self, url: str) -> str | None:
        """The host-wide signal that keeps this URL from training, known before it is fetched."""
        path = _path(url)
        matching = [rule for rule in self.usage if _matches(rule.pattern, path)]
        if matching:
            longest = max(len(rule.pattern) for rule in matching)
            for rule in matching:  # at equal length a refusal beats a permission
                if rule.forbids and len(rule.pattern) == longest:
                    return rule.signal
        for pattern, reserved in self.tdm:
            if _matches(pattern, path):
                if reserved:
                    return "tdmrep_json"
                break
        if self.ai_txt is not None and not self.ai_txt.can_fetch(url, AGENT):
            return "ai_txt"
        return "robots_rsl" if rsl_reserves(self.rsl, url) else None


def rsl_reserves(rules: Iterable[RslRule], url: str) -> bool:
    """Whether the longest pattern that matches a URL keeps it from training; at equal length a refusal wins."""
    path = _path(url)
    matching = [
        (len(rule.pattern), not rule.permits)
        for rule in rules
        if _matches(rule.pattern, url if "://" in rule.pattern else path)
    ]
    return max(matching, default=(0, False))[1]


def site_policy(robots: bytes | None, tdmrep: bytes | None = None, ai_txt: bytes | None = None) -> SitePolicy:
    """Policy of an origin from its files; None = the file does not exist."""
    text = (robots or b"")[:_ROBOTS_BYTES].decode("utf-8", "replace").lstrip("\ufeff")
    lines = list(_addressed_lines(text))
    parsed = Protego.parse(text) if robots is not None else None
    return SitePolicy(
        robots=parsed,
        robots_sha256=hashlib.sha256(robots).hexdigest() if robots is not None else None,
        usage=tuple(rule for key, value in lines for rule in _usage_rules(key, value)),
        tdm=_tdm_rules(tdmrep) if tdmrep is not None else (),
        ai_txt=Protego.parse(ai_txt.decode("utf-8", "replace")) if ai_txt is not None else None,
        rsl_licences=tuple(value for key, value in lines if key == "license"),
        sitemaps=tuple(parsed.sitemaps) if parsed is not None else (),
    )


def page_opt_out(headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]] = ()) -> str | None:
    """The signal in a response's headers or its HTML meta elements (name, content) that forbids training."""
    for name, value in headers:
        key = name.lower()
        if key == "content-usage" and _forbids(value):
            return "header_content_usage"
        if key == "content-signal" and _forbids(value):
            return "header_content_signal"
        if key == "tdm-reservation" and value.strip() == "1":
            return "header_tdm_reservation"
        if key == "x-robots-tag" and _says_noai(value):
            return "header_robots_noai"
    for name, content in metas:
        key = name.strip().lower()
        if key in ("robots", AGENT) and "noai" in _words(content):
            return "meta_robots_noai"
        if key == "tdm-reservation" and content.strip() == "1":
            return "meta_tdm_reservation"
    return None


def _addressed_lines(text: str) -> Iterable[tuple[str, str]]:
    """(key, value) of the lines that speak to us: our own group if there is one, else `*`, and lines outside groups."""
    groups: dict[str, list[tuple[str, str]]] = {}
    outside: list[tuple[str, str]] = []
    agents: list[str] = []
    heading = False  # consecutive User-agent lines share one group
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            agents = [*agents, value.lower()] if heading else [value.lower()]
            heading = True
            groups.setdefault(value.lower(), [])
            continue
        heading = False
        if key == "license":  # RSL: of the whole site wherever it stands; the URL keeps its colons
            outside.append((key, value))
        elif agents:
            for agent in agents:
                groups[agent].append((key, value))
        else:
            outside.append((key, value))
    return outside + groups.get(AGENT, groups.get("*", []))


def _usage_rules(key: str, value: str) -> Iterable[UsageRule]:
    if key not in ("content-usage", "content-signal"):
        return
    pattern = "/"
    if value.startswith(("/", "*")):
        pattern, _, value = value.partition(" ")
    said = {k: v for k, v in _preferences(value) if k in _TRAINING_KEYS}
    if said:
        yield UsageRule(f"robots_{key.replace('-', '_')}", pattern, _forbids(value))


def _preferences(value: str) -> Iterable[tuple[str, str]]:
    for item in re.split(r"[,;]", value):
        key, _, answer = item.partition("=")
        yield key.strip().lower(), answer.strip().lower()


def _forbids(value: str) -> bool:
    return any(key in _TRAINING_KEYS and answer in ("n", "no") for key, answer in _preferences(value))


def _words(value: str) -> list[str]:
    return [word.strip().lower() for word in value.split(",")]


def _says_noai(value: str) -> bool:
    """`noai`, or `headwater: noai`; directives addressed to another agent are not for us."""
    agent, colon, rest = value.partition(":")
    if colon and "," not in agent and agent.strip().lower() != AGENT:
        return False
    return "noai" in _words(rest if colon and "," not in agent else value)


def _tdm_rules(tdmrep: bytes) -> tuple[tuple[str, bool], ...]:
    """Rules of tdmrep.json. A file that cannot be read reserves everything: it was put there to say no."""
    try:
        entries = json.loads(tdmrep)
        return tuple((str(e["location"]), int(e["tdm-reservation"]) == 1) for e in entries)
    except (ValueError, TypeError, KeyError):
        return (("/", True),)


def _path(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _matches(pattern: str, path: str) -> bool:
    """Path patterns as in robots.txt: a prefix, `*` for anything, a final `$` for the end."""
    anchored = pattern.endswith("$")
    pieces: Sequence[str] = (pattern[:-1] if anchored else pattern).split("*")
    regex = ".*".join(re.escape(piece) for piece in pieces) + ("$" if anchored else "")
    return re.match(regex, path) is not None
