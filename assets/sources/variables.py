"""${VARIABLE} in the places of sources.toml: its name goes into data, identity, logs and errors, its value to the server.

What a place is called everywhere is its text with the names. `reveal` puts the values in, as late as the connection;
`hide` takes them out of whatever comes back: a page that links with our token, a library that quotes the whole URL.
A variable with a default (${NAME:-default}) is no secret, and neither is a host: both are read when the file is.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from assets.build import BuildError

PLACES = (
    *("start_urls", "path_prefixes", "root", "paths", "base_url", "path_lists"),
    *("index_api", "cdxj", "columnar", "urls", "s3_endpoint"),
)
"""Keys of a source that say where it is: only there a variable may stay unread."""
MIN_SECRET_CHARACTERS = 6
"""A shorter value is part of too many ordinary words to be taken out of pages."""
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
_ESCAPED = re.compile(r"(?:\$|%24)(?:\{|%7B)(\w+)(?:\}|%7D)", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#\s'\"<>]*@")
_BYTE_ORDERS = ("utf-8", "utf-16-le", "utf-16-be")


def named_place(text: str, read: Callable[[str], str]) -> str:
    """A place with only those variables read by `read` that are no secret: with a default, or of a URL's host and port."""
    text = VARIABLE.sub(lambda found: read(found[0]) if found[2] else f"${{{found[1]}}}", text)
    url = _URL.fullmatch(text)
    if url is None:
        return text
    userinfo, at, host = url[2].rpartition("@")
    return url[1] + userinfo + at + read(host) + url[3]


def names_again(url: str) -> str:
    """A URL in which a library has percent-encoded the names of variables, with the names as they were."""
    return _ESCAPED.sub(r"${\1}", url) if "%7" in url else url


def without_userinfo(text: str) -> str:
    """Text whose URLs carry no user and password, for errors."""
    return _USERINFO.sub("", text)


def refuse_credentials(text: str, *, sign_in: bool) -> None:
    """Raise ValueError when a place carries a password in clear text, or any where nobody can sign in."""
    url = _URL.fullmatch(text)
    if url is None or "@" not in url[2]:
        return
    userinfo, _, host = url[2].rpartition("@")
    user, _, password = userinfo.partition(":")
    place = f"{url[1]}{host}{url[3].partition('?')[0]}"
    if not (sign_in and url[1] in ("http://", "https://")):
        raise ValueError(f"{place} carries credentials: nothing signs in there by its URL; take them out")
    if VARIABLE.sub("", password or user):
        raise ValueError(
            f"{place} carries credentials, which would end up in the data: write {url[1]}${{USER}}:${{PASSWORD}}@{host} "
            "and set the two variables; the data then holds their names"
        )


@dataclass(frozen=True)
class Variables:
    """The variables of one source and their values."""

    values: Mapping[str, str] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()
    """Names of those that stand in URLs."""

    @classmethod
    def of(cls, source: str, table: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Variables:
        """What the places of a source's table need, from the environment. Raises BuildError for what is unset or too short."""
        environ = os.environ if environ is None else environ
        places = [(key, text) for key in PLACES for text in _texts(table.get(key) or ())]
        values: dict[str, str] = {}
        for key, text in places:
            for found in VARIABLE.finditer(text):
                if not environ.get(found[1]):
                    raise BuildError(
                        f"source {source!r}: {key} {text!r} needs the environment variable {found[1]}, which is not set "
                        "or empty; set it where this runs"
                    )
                values[found[1]] = environ[found[1]]
        every = cls(values)
        secret = {name for key, text in places if _is_url(key, every.reveal(text)) for name in _names(text)}
        for name in sorted(secret):
            if len(values[name]) < MIN_SECRET_CHARACTERS:
                raise BuildError(
                    f"source {source!r}: the value of {name} has {len(values[name])} characters; below "
                    f"{MIN_SECRET_CHARACTERS} it cannot be kept out of the data, for it stands in ordinary words too. Use a "
                    f"longer one, or write ${{{name}:-default}} in sources.toml if it is no secret"
                )
        found = cls(values, frozenset(secret))
        if secret:
            _hide_in_logs(found)
        return found

    def reveal(self, text: str) -> str:
        """A place as it is given to the connection."""
        if "${" not in text or not self.values:
            return text
        return VARIABLE.sub(lambda found: self.values.get(found[1], found[0]), text)

    def hide(self, text: str) -> str:
        """Text with names for values, however they are escaped."""
        return self._pattern.sub(lambda found: self._written[found[0]], text) if self.secret else text

    def hide_bytes(self, content: bytes) -> bytes:
        """The same for a payload of any encoding that holds ASCII, and UTF-16."""
        if not self.secret:
            return content
        return self._byte_pattern.sub(lambda found: self._written_bytes[found[0]], content)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Errors that leave the block quote no value, nor does anything they were raised from."""
        try:
            yield
            return
        except Exception as error:
            told = error if self._is_clean(error) else self._cleaned(error)
        raise told  # outside: the error as it was is not even its context

    def _is_clean(self, error: BaseException) -> bool:
        told = "".join(traceback.format_exception(error))
        return self.hide(told) == told

    def _cleaned(self, error: Exception) -> Exception:
        """The error itself without its causes and values, where it lets go of them."""
        error.__cause__ = error.__context__ = None
        error.args = tuple(self.hide(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, OSError):
            error.strerror, error.filename = self.hide(error.strerror or ""), None
        if self._is_clean(error):
            return error
        return RuntimeError(f"{type(error).__name__}: {self.hide(str(error))}")

    @cached_property
    def _written(self) -> dict[str, str]:
        """Each way to write a value -> its name."""
        names = sorted(self.secret, reverse=True)  # of two names of one value the first counts
        return {form: f"${{{name}}}" for name in names for form in _forms(self.values[name])}

    @cached_property
    def _written_bytes(self) -> dict[bytes, bytes]:
        forms = self._written.items()
        return {form.encode(order): name.encode(order) for order in _BYTE_ORDERS for form, name in forms}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._written, key=len, reverse=True))))

    @cached_property
    def _byte_pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(map(re.escape, sorted(self._written_bytes, key=len, reverse=True))))


def sign_in(url: str, variables: Variables) -> tuple[str, str | None]:
    """(URL as it is requested, `user:password` of its userinfo) of a place."""
    found = _URL.fullmatch(url)
    if found is None or "@" not in found[2]:
        return variables.reveal(url), None
    userinfo, _, host = found[2].rpartition("@")
    user, colon, password = (variables.reveal(part) for part in userinfo.partition(":"))
    return variables.reveal(found[1] + host + found[3]), f"{user}{colon or ':'}{password}"


def _is_url(key: str, revealed: str) -> bool:
    return "://" in revealed or key in ("path_prefixes", "urls")


def _names(text: str) -> list[str]:
    return [found[1] for found in VARIABLE.finditer(text)]


def _texts(value: str | Sequence[str]) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value


def _forms(value: str) -> Iterator[str]:
    """A value as URLs, HTML and JSON write it."""
    plain = dict.fromkeys((value, unquote(value)))
    for text in plain:
        for coded in (text, quote(text), quote(text, safe=""), quote_plus(text), quote(text, safe="/!~:@=&?")):
            escaped = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), coded)
            for form in (
                coded,
                escaped,
                html.escape(coded),
                json.dumps(coded)[1:-1],
                json.dumps(coded, ensure_ascii=False)[1:-1],
            ):
                if len(form) >= MIN_SECRET_CHARACTERS:
                    yield form


_in_logs: list[Variables] = []


def _hide_in_logs(variables: Variables) -> None:
    """From now on no log record of this process holds these values: urllib3 warns with the whole URL of what it tries again."""
    if not _in_logs:
        before = logging.getLogRecordFactory()
        logging.setLogRecordFactory(lambda *args, **kwargs: _without_values(before(*args, **kwargs)))
    if variables not in _in_logs:
        _in_logs.append(variables)


def _without_values(record: logging.LogRecord) -> logging.LogRecord:
    try:
        message = told = record.getMessage()
    except Exception:  # a wrong format is logging's to tell
        return record
    trace = traces = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
    for variables in _in_logs:
        told, traces = variables.hide(told), variables.hide(traces)
    if told != message:
        record.msg, record.args = told, None
    if traces != trace:
        record.exc_info, record.exc_text = None, traces
    return record
