"""What is worth waking somebody for, and who was told already. Off until config/alerts.toml names a channel.

The rules are plain functions of facts; alert_sensor.py gathers the facts from Dagster, alert_channels.py delivers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.errors import HeadwaterError
from orchestration.config import ConfigError, config_folder, read_toml
from orchestration.identity.partitions import split_key
from orchestration.process.terminal import visible

FILE, STATE = "alerts.toml", "alerts.json"
TEXT_CHARACTERS = 4_000
REMEMBERED_S = 400 * 86_400.0
"""How long a key is known as told: longer than any outage that its owner still wants to hear of only once."""
Kind = Literal["run_failed", "check_blocked", "night_missed", "source_unanswered", "test"]


class WebhookTable(BaseModel):
    """Where an alert is posted as JSON; its `text` is what Slack and Mattermost show."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str = Field(pattern=r"^https?://\S+$", description="keep it in a variable: it is a password")


class EmailTable(BaseModel):
    """The mail server and the people."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    host: str
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = Field("starttls", description="none: only on a machine of yours")
    user: str = ""
    password: str = ""
    sender: str = Field(alias="from", pattern=r"^[^\s@]+@[^\s@]+$")
    to: list[str] = Field(min_length=1)


class Alerts(BaseModel):
    """config/alerts.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    webhook: WebhookTable | None = None
    email: EmailTable | None = None
    unanswered_nights: int = Field(3, ge=1, description="a source without a crawl for so many tries is an alert")
    missed_after_hours: float = Field(6.0, gt=0, description="a scheduled crawl may be late by so much")

    @property
    def on(self) -> bool:
        """Whether anybody is to be told."""
        return self.webhook is not None or self.email is not None


@dataclass(frozen=True)
class Alert:
    """One thing to tell once. `key` says which: the same key is not told again over the same channel."""

    kind: Kind
    key: str
    title: str
    text: str


@dataclass(frozen=True)
class FailedRun:
    """A Dagster run that ended red and is not tried again by itself."""

    run_id: str
    job: str
    partition: str | None
    error: str
    """Name of the error's class, where the stage told it."""
    message: str


@dataclass(frozen=True)
class Crawls:
    """What is known of the crawls of one source; keys are `source@stamp`."""

    source: str
    tried: Sequence[str]
    failed: Sequence[str]
    published: Sequence[str]
    due: datetime | None
    """The last moment at which its schedule, turned on, should have started a crawl, longer ago than one may be late."""


class Channel(Protocol):
    """A way to tell. `send` raises DeliveryError, whose message holds no secret."""

    @property
    def name(self) -> str: ...

    def send(self, alert: Alert) -> None: ...


class DeliveryError(HeadwaterError):
    """An alert could not be delivered. It is tried again."""


def load_alerts(folder: Path | None = None) -> Alerts:
    """alerts.toml of the configuration; all off without one. Raises ConfigError, which quotes no value of it."""
    path = (folder or config_folder()) / FILE
    if not path.exists():
        return Alerts.model_validate({})
    try:
        return Alerts.model_validate(read_toml(path))
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def of_failed_runs(runs: Iterable[FailedRun]) -> list[Alert]:
    """One alert per run; a blocked check is named as such."""
    found = []
    for run in runs:
        where = f"{run.job} {run.partition or ''}".strip()
        blocked = run.error == "BlockedError"
        kind: Kind = "check_blocked" if blocked else "run_failed"
        title = f"{where}: {'a check blocked publication' if blocked else 'the run failed'}"
        found.append(Alert(kind, f"run:{run.run_id}", title, f"{run.message}\n\nRun {run.run_id}."))
    return found


def of_crawls(crawls: Crawls, unanswered_nights: int) -> list[Alert]:
    """A night that was missed, and a source that has not answered for some."""
    found = []
    last = max(crawls.published, default="")
    since = f"its last published crawl is {last}" if last else "it was never crawled with success"
    told_or_well = {*crawls.published, *crawls.failed}  # a crawl that failed is told as a failed run
    if crawls.due is not None and not any(split_key(key)[1] >= _stamp(crawls.due) for key in told_or_well):
        when = f"{crawls.due.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        text = f"{crawls.source} was due at {when} and was not crawled; {since}. Is the daemon running?"
        key = f"missed:{crawls.source}@{_stamp(crawls.due)}"
        found.append(Alert("night_missed", key, f"{crawls.source}: a crawl was missed", text))
    lost = sorted(key for key in {*crawls.tried, *crawls.failed} if key > last and key not in crawls.published)
    if len(lost) >= unanswered_nights:
        text = f"{len(lost)} crawls of {crawls.source} in a row brought nothing, {lost[0]} the first of them; {since}."
        key = f"unanswered:{last or crawls.source}"
        found.append(Alert("source_unanswered", key, f"{crawls.source} does not answer", text))
    return found


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


@dataclass
class Told:
    """Which alert went over which channel, kept in the home; and since when runs are looked at."""

    home: Path
    since: float
    sent: dict[str, dict[str, float]]

    @classmethod
    def read(cls, home: Path) -> Told:
        """From the home; a new or unreadable one begins now, so that nobody is told of last year."""
        try:
            content = json.loads((home / STATE).read_text(encoding="utf-8"))
            return cls(home, float(content["since"]), {c: dict(keys) for c, keys in content["sent"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(home, time.time(), {})

    def write(self) -> None:
        """In one step."""
        from orchestration.store.durable import write_small_file  # pygit2, for those who write alone

        old = time.time() - REMEMBERED_S
        sent = {channel: {key: at for key, at in keys.items() if at > old} for channel, keys in self.sent.items()}
        write_small_file(self.home, STATE, json.dumps({"since": self.since, "sent": sent}, indent=1).encode())


def tell(alerts: Iterable[Alert], channels: Sequence[Channel], told: Told) -> int:
    """Send what was not sent yet, over each channel by itself; returns how many messages went out.

    Raises DeliveryError, at the end, when a channel failed: what it was not told is sent next time.
    """
    count, failures = 0, []
    for channel in channels:
        known = told.sent.setdefault(channel.name, {})
        for alert in (each for each in alerts if each.key not in known):
            try:
                channel.send(_plain(alert))
            except DeliveryError as error:
                failures.append(f"{channel.name}: {error}")
                break  # the next would wait for the same server
            known[alert.key] = time.time()
            told.write()  # at once: a killed process must not tell twice
            count += 1
    if failures:
        raise DeliveryError("; ".join(failures))
    return count


def _plain(alert: Alert) -> Alert:
    """Messages quote pages: one line of title, and nothing that a terminal or a mail header would obey."""
    title = " ".join(visible(alert.title).split())
    return Alert(alert.kind, alert.key, title, visible(alert.text)[:TEXT_CHARACTERS])


def as_json(alert: Alert) -> Mapping[str, str]:
    """What a webhook gets."""
    details = {key: value for key, value in asdict(alert).items() if key != "text"}
    return {"text": f"Headwater: {alert.title}\n\n{alert.text}", **details}
