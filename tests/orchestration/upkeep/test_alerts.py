"""Alerts: what is told, once, over each channel; what is not delivered is told later; nothing without a configuration."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.config import ConfigError
from orchestration.graph import alert_sensor
from orchestration.graph.alert_sensor import build_alert_sensors, tell_what_is_new
from orchestration.identity.catalog import Catalog
from orchestration.process.workplace import DAGSTER_YAML
from orchestration.upkeep.alert_channels import channels_of
from orchestration.upkeep.alerts import (
    Alert,
    Crawls,
    DeliveryError,
    FailedRun,
    Told,
    load_alerts,
    of_crawls,
    of_failed_runs,
    tell,
)
from tests.orchestration.upkeep.alert_servers import Inbox, body_of, mail_server, web_server

ALERT = Alert("run_failed", "run:1", "crawl_job a@b: the run failed", "cause\nand remedy")
BOTH = """
unanswered_nights = 2
[webhook]
url = "http://127.0.0.1:{web}/hook?token=S3CRET"
[email]
host = "127.0.0.1"
port = {mail}
security = "{security}"
user = "headwater"
password = "${{TEST_ALERT_PASSWORD}}"
from = "headwater@example.org"
to = ["a@example.org", "b@example.org"]
"""


@pytest.fixture
def web() -> Iterator[Inbox]:
    with web_server() as inbox:
        yield inbox


@pytest.fixture
def mail() -> Iterator[Inbox]:
    with mail_server() as inbox:
        yield inbox


@pytest.fixture
def home(tmp_path: Path, web: Inbox, mail: Inbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, its configuration with both channels, and a Dagster of its own."""
    (tmp_path / "config").mkdir()
    write(tmp_path, BOTH.format(web=web.port, mail=mail.port, security="none"))
    monkeypatch.setenv("TEST_ALERT_PASSWORD", "PA55")
    monkeypatch.setenv("HEADWATER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    return tmp_path


def write(home: Path, text: str) -> None:
    (home / "config" / "alerts.toml").write_text(text)


# --- the rules


def test_a_failed_run_and_a_blocked_check_are_told_apart() -> None:
    failed, blocked = of_failed_runs(
        [
            FailedRun("1", "crawl_job", "site@20260101T000000Z", "BuildError", "no answer"),
            FailedRun("2", "curate_job", None, "BlockedError", "x blocked"),
        ]
    )
    assert (failed.kind, failed.title) == ("run_failed", "crawl_job site@20260101T000000Z: the run failed")
    assert (blocked.kind, blocked.title) == ("check_blocked", "curate_job: a check blocked publication")
    assert failed.key != blocked.key
    assert "no answer" in failed.text


NIGHT = [f"site@202601{day:02d}T030000Z" for day in range(1, 10)]
DUE = datetime(2026, 1, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tried", "failed", "published", "due", "kinds"),
    [
        (NIGHT[:4], [], NIGHT[:4], DUE, []),
        (NIGHT[:3], [], NIGHT[:3], DUE, ["night_missed"]),
        (NIGHT[:3], [], NIGHT[:3], None, []),  # not turned on, or not late yet
        (NIGHT[:4], NIGHT[3:4], NIGHT[:3], DUE, []),  # it failed: told as a failed run
        (NIGHT[:4], [], NIGHT[:3], DUE, ["night_missed"]),  # registered, never run
        (NIGHT[:4], NIGHT[1:4], NIGHT[:1], DUE, ["source_unanswered"]),
        (NIGHT[:4], NIGHT[2:4], NIGHT[:2], DUE, []),  # two of three
        (NIGHT[:3], NIGHT[:3], [], None, ["source_unanswered"]),  # never answered
        (NIGHT[:5], NIGHT[:4], NIGHT[4:5], DUE, []),  # answers again
        ([], [], [], DUE, ["night_missed"]),
        ([], [], NIGHT[4:5], DUE, []),  # crawled by hand, later
    ],
)
def test_nights_and_silent_sources(
    tried: list[str], failed: list[str], published: list[str], due: datetime | None, kinds: list[str]
) -> None:
    assert [alert.kind for alert in of_crawls(Crawls("site", tried, failed, published, due), 3)] == kinds


def test_an_outage_is_told_once_and_the_next_one_again() -> None:
    def keys(count: int, published: list[str]) -> set[str]:
        return {a.key for a in of_crawls(Crawls("site", NIGHT[:count], [], published, None), 3)}

    assert keys(4, NIGHT[:1]) == keys(5, NIGHT[:1]) != set()
    assert keys(9, NIGHT[5:6]) not in (set(), keys(5, NIGHT[:1]))


# --- delivery


def test_both_channels_get_the_message(home: Path, web: Inbox, mail: Inbox) -> None:
    assert tell([ALERT], channels_of(load_alerts()), Told.read(home)) == 2
    assert web.messages == [
        {
            "text": f"Headwater: {ALERT.title}\n\n{ALERT.text}",
            "kind": "run_failed",
            "key": "run:1",
            "title": ALERT.title,
        }
    ]
    (message,) = mail.messages
    assert message["Subject"] == f"Headwater: {ALERT.title}"
    assert (message["From"], message["To"]) == ("headwater@example.org", "a@example.org, b@example.org")
    assert body_of(message) == "cause\nand remedy\n"
    assert mail.logins == ["\0headwater\0PA55"]


def test_what_was_told_is_not_told_again(home: Path, web: Inbox, mail: Inbox) -> None:
    for _ in range(2):
        tell([ALERT], channels_of(load_alerts()), Told.read(home))
    other = Alert("run_failed", "run:2", "other", "x")
    assert tell([ALERT, other], channels_of(load_alerts()), Told.read(home)) == 2
    assert [len(web.messages), len(mail.messages)] == [2, 2]


@pytest.mark.parametrize("answers", [[500], [404], [301], [503, 503, 503]])
def test_what_one_channel_refuses_is_sent_over_the_other_and_later(
    home: Path, web: Inbox, mail: Inbox, answers: list[int]
) -> None:
    web.answers = list(answers)
    with pytest.raises(DeliveryError) as failed:
        tell([ALERT], channels_of(load_alerts()), Told.read(home))
    assert "S3CRET" not in str(failed.value)
    assert f"127.0.0.1 answered {answers[0]}" in str(failed.value)
    assert (len(web.messages), len(mail.messages)) == (0, 1)
    assert tell([ALERT], channels_of(load_alerts()), Told.read(home)) == 1
    assert (len(web.messages), len(mail.messages)) == (1, 1)


def test_a_server_that_is_busy_for_a_moment_is_asked_again(home: Path, web: Inbox) -> None:
    web.answers = [503, 429]
    assert tell([ALERT], channels_of(load_alerts()), Told.read(home)) == 2
    assert len(web.messages) == 1


def test_a_password_is_not_sent_in_the_clear_unless_asked(home: Path, web: Inbox, mail: Inbox) -> None:
    write(home, BOTH.format(web=web.port, mail=mail.port, security="starttls"))
    with pytest.raises(DeliveryError, match="SMTPNotSupportedError") as failed:
        tell([ALERT], channels_of(load_alerts()), Told.read(home))
    assert "PA55" not in str(failed.value)
    assert (mail.logins, mail.messages) == ([], [])


def test_servers_that_are_not_there_are_an_error_without_secrets(home: Path) -> None:
    write(home, BOTH.format(web=9, mail=9, security="none"))
    with pytest.raises(DeliveryError) as failed:
        tell([ALERT], channels_of(load_alerts()), Told.read(home))
    assert "webhook: 127.0.0.1 cannot be reached" in str(failed.value)
    assert "email: 127.0.0.1:9" in str(failed.value)
    assert not {"S3CRET", "PA55"} & set(str(failed.value).replace("=", " ").split())


def test_a_receiver_that_is_refused_is_an_error(home: Path, mail: Inbox) -> None:
    mail.answers = [550]
    with pytest.raises(DeliveryError, match="refused 1 of 2 receivers"):
        tell([ALERT], channels_of(load_alerts()), Told.read(home))


def test_a_page_in_a_message_forges_no_header_and_steers_no_terminal(home: Path, web: Inbox, mail: Inbox) -> None:
    hostile = Alert("run_failed", "k", "title\r\nBcc: x@evil.example\x1b[2J", "text\x1b]0;t\x07 " + "z" * 10_000)
    tell([hostile], channels_of(load_alerts()), Told.read(home))
    (message,) = mail.messages
    assert message["Bcc"] is None
    assert message["Subject"] == "Headwater: title Bcc: x@evil.example"
    assert "\x1b" not in web.messages[0]["text"] + body_of(message)
    assert len(body_of(message)) < 5_000


# --- configuration


def test_alerts_are_off_until_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONFIG", str(tmp_path))
    assert not load_alerts().on
    assert build_alert_sensors() == []
    monkeypatch.delenv("HEADWATER_CONFIG")
    assert not load_alerts().on  # the file that is shipped
    assert CliRunner().invoke(app, ["alerts"]).stdout.startswith("Alerts are off: name a channel in")


def test_a_configured_sensor_is_on_by_itself(home: Path) -> None:
    (sensor,) = build_alert_sensors()
    assert (sensor.name, sensor.default_status) == ("alerts", dg.DefaultSensorStatus.RUNNING)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[webhook]\nurl = "ftp://S3CRET"', "webhook.url"),
        ('[webhook]\nurll = "S3CRET"', "webhook.urll"),
        ('[email]\nhost = "h"\nfrom = "S3CRET"\nto = ["a@b"]', "email.from"),
        ('[email]\nhost = "h"\nfrom = "a@b"\nto = []', "email.to"),
        ("unanswered_nights = 0", "unanswered_nights"),
    ],
)
def test_a_mistake_is_named_without_its_value(home: Path, text: str, told: str) -> None:
    write(home, text)
    with pytest.raises(ConfigError, match=rf"alerts\.toml: {told}: ") as failed:
        load_alerts()
    assert "S3CRET" not in str(failed.value)
    assert build_alert_sensors() == []  # the graph loads; doctor tells


def test_the_command_sends_a_test(home: Path, web: Inbox, mail: Inbox) -> None:
    done = CliRunner().invoke(app, ["alerts", "--test"])
    assert (done.exit_code, done.stdout) == (0, "A test went to: webhook, email.\n")
    assert [web.messages[0]["kind"], mail.messages[0]["Subject"]] == ["test", "Headwater: a test"]
    web.answers = [500]
    done = CliRunner().invoke(app, ["alerts", "--test"])
    assert (done.exit_code, "answered 500" in done.stderr) == (1, True)


# --- Dagster


@dg.op
def builds(context: dg.OpExecutionContext) -> None:
    if context.run.tags.get("blocked"):
        raise dg.Failure("corpus: check x blocked, limit 1", metadata={"error": "BlockedError"})
    if context.run.tags.get("fails"):
        raise RuntimeError("boom")


@dg.job
def crawl_job() -> None:
    builds()


class World:
    """Facts of a night, in a real Dagster instance."""

    def __init__(self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = instance
        self.published: list[str] = []
        monkeypatch.setattr(alert_sensor, "read_catalog", lambda store: Catalog("c", self._manifests()))

    def _manifests(self) -> dict[tuple[str, str | None], dict[str, Any]]:
        return {("raw_crawl", key): {} for key in self.published}

    def run(self, partition: str | None = None, **tags: str) -> str:
        where = {"dagster/partition": partition} if partition else {}
        if partition:
            self.instance.add_dynamic_partitions("crawl", [partition])
        done = crawl_job.execute_in_process(instance=self.instance, tags={**where, **tags}, raise_on_error=False)
        return done.run_id

    def turn_on(self, source: str, since: datetime) -> None:
        origin = dg.deserialize_value(ORIGIN.replace("NAME", f"recrawl_{source}"))
        data = ScheduleInstigatorData("0 3 * * *", since.timestamp())
        state = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)  # type: ignore[arg-type]
        self.instance.add_instigator_state(state)


ORIGIN = (
    '{"__class__": "ExternalJobOrigin", "external_repository_origin": {"__class__": "ExternalRepositoryOrigin", '
    '"repository_location_origin": {"__class__": "RegisteredRepositoryLocationOrigin", "location_name": "x"}, '
    '"repository_name": "__repository__"}, "job_name": "NAME"}'
)


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    place = home / "dagster"
    place.mkdir()
    (place / "dagster.yaml").write_text(DAGSTER_YAML)
    monkeypatch.setenv("DAGSTER_HOME", str(place))
    site = (
        '[site]\nkind = "files"\nlicence = "x"\ndomain = "d"\nformat = "text"\nroot = "/tmp"\ninclude = ["*"]\n'
        'schedule = "0 3 * * *"\n'
    )
    (home / "config" / "sources.toml").write_text(site)
    for folder in ("recipes", "profiles"):
        (home / "config" / folder).mkdir()
    (home / "config" / "recipes" / "curation.toml").write_text("")
    (home / "config" / "profiles" / "local.toml").write_text("")
    Told.read(home).write()
    with dg.DagsterInstance.from_config(str(place)) as instance:
        yield World(instance, monkeypatch)


def test_runs_that_fail_are_told_once_and_others_never(world: World, web: Inbox, mail: Inbox) -> None:
    world.run()
    assert tell_what_is_new(world.instance) == 0
    failed = world.run(fails="yes")
    blocked = world.run("site@20260101T030000Z", blocked="yes")
    world.run(fails="yes", **{RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})  # Dagster starts it again itself
    assert tell_what_is_new(world.instance) == 4
    assert tell_what_is_new(world.instance) == 0
    assert {m["key"]: m["kind"] for m in web.messages} == {
        f"run:{failed}": "run_failed",
        f"run:{blocked}": "check_blocked",
    }
    texts = {m["kind"]: m["text"] for m in web.messages}
    assert "corpus: check x blocked, limit 1" in texts["check_blocked"]
    assert "crawl_job site@20260101T030000Z" in texts["check_blocked"]
    assert "boom" in texts["run_failed"]
    assert len(mail.messages) == 2


def test_failures_of_before_are_not_told(world: World, home: Path, web: Inbox) -> None:
    world.run(fails="yes")
    (home / "alerts.json").unlink()
    told = Told.read(home)
    told.since += 3_600
    told.write()
    assert tell_what_is_new(world.instance) == 0
    assert web.messages == []


def test_an_alert_that_cannot_be_delivered_turns_the_sensor_red(world: World, web: Inbox, mail: Inbox) -> None:
    world.run(fails="yes")
    web.answers = [500]
    (sensor,) = build_alert_sensors()
    context = dg.build_sensor_context(instance=world.instance)
    with pytest.raises(Exception, match="not delivered and are tried again"):
        sensor.evaluate_tick(context)
    assert "2 messages" not in str(sensor.evaluate_tick(context).skip_message)
    assert (len(web.messages), len(mail.messages)) == (1, 1)
    assert sensor.evaluate_tick(context).skip_message == "nothing new to tell"


def key(days_ago: float) -> str:
    return f"site@{datetime.now(UTC) - timedelta(days=days_ago):%Y%m%dT%H%M%SZ}"


def test_a_night_that_nobody_crawled_is_told(world: World, web: Inbox) -> None:
    world.published = [key(4)]
    assert tell_what_is_new(world.instance) == 0  # the schedule is off
    world.turn_on("site", datetime.now(UTC) - timedelta(days=10))
    assert tell_what_is_new(world.instance) == 2
    assert web.messages[0]["kind"] == "night_missed"
    assert world.published[0] in web.messages[0]["text"]
    assert tell_what_is_new(world.instance) == 0
    world.published = [key(4), key(0)]
    assert tell_what_is_new(world.instance) == 0


def test_a_schedule_that_was_just_turned_on_missed_nothing(world: World, web: Inbox) -> None:
    world.turn_on("site", datetime.now(UTC))
    assert tell_what_is_new(world.instance) == 0


def test_a_source_that_does_not_answer_is_told_after_so_many_nights(world: World, web: Inbox) -> None:
    world.published = [key(9)]
    world.run(key(3), fails="yes")
    tell_what_is_new(world.instance)
    assert {m["kind"] for m in web.messages} == {"run_failed"}
    world.run(key(2), fails="yes")
    tell_what_is_new(world.instance)
    assert [m["kind"] for m in web.messages] == ["run_failed", "run_failed", "source_unanswered"]
    world.run(key(1), fails="yes")
    tell_what_is_new(world.instance)
    assert [m["kind"] for m in web.messages].count("source_unanswered") == 1
