"""Bad input and bad machines: one message with cause and remedy, exit code 1, nothing half-published, no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.store import open_store
from tests.campaigns.kills import orphans
from tests.end_to_end.harness import REPOSITORY, STAMP, Home
from tests.shared_build import Built

pytestmark = pytest.mark.slow

RUN = ("run", "--recipe", "tiny")


def refused(home: Home, *arguments: str) -> str:
    """The one message of a command that must fail."""
    result = home.headwater(*arguments, expect=1)
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error:") == 1, result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture
def home(served: tuple[Path, int], tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", served[1])


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_wrong_words_name_the_right_ones(home: Home) -> None:
    assert "recipe 'tyni' is not in config/recipes/; known: tiny" in refused(home, "run", "--recipe", "tyni")
    assert "source(s) sight are not in sources.toml" in refused(home, *RUN, "--recrawl", "sight")
    assert "source(s) sight are not in sources.toml" in refused(home, *RUN, "--accept-yield", "sight")
    assert "is not a time written as YYYYMMDDTHHMMSSZ" in refused(home, *RUN, "--at", "today")
    home.edit_recipe("curation", "threshold = 0.8", "treshold = 0.8")
    assert "curation.toml: dedup.treshold: unknown key; known keys here:" in refused(home, "status")


def test_sources_that_point_nowhere_publish_nothing(home: Home) -> None:
    sources = home.config / "sources.toml"
    text = sources.read_text(encoding="utf-8").replace("${HEADWATER_TEST_PORT}", "9")
    sources.write_text(text.replace("delay_s = 0", "delay_s = 0\nretries = 0"), encoding="utf-8")
    message = refused(home, *RUN)
    assert "source 'site'" in message
    assert "cannot be read" in message
    assert "raw_crawl[]" not in home.states()
    sources.write_text(text.replace('root = "stdlib:"', 'root = "/nowhere/at/all"').replace("[site]", "[gone]"))
    assert "/nowhere/at/all" in home.headwater("doctor", "--json", expect=3).stdout


def test_a_missing_configuration_and_an_unusable_home(home: Home, tmp_path: Path) -> None:
    home.environment["HEADWATER_CONFIG"] = str(tmp_path / "nowhere")
    assert "no such folder. Set HEADWATER_CONFIG" in refused(home, "status")
    del home.environment["HEADWATER_CONFIG"]
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    home.environment["HEADWATER_HOME"] = str(tmp_path / "file")
    message = refused(home, *RUN)
    assert str(tmp_path / "file") in message
    assert "is or lies in a file, not a folder. Set HEADWATER_HOME to a folder" in message


def test_busy_ports_are_named_with_the_way_out(home: Home, busy_port: int) -> None:
    message = refused(home, "ui", "--port", str(busy_port))
    assert str(busy_port) in message
    assert "headwater ui --port" in message
    home.environment["HEADWATER_DEMO_PORT"] = str(busy_port)
    findings = home.json("doctor", expect=3)
    port = next(finding for finding in findings if finding["name"] == "demo port")
    assert not port["ok"]
    assert "HEADWATER_DEMO_PORT" in port["remedy"]


def test_the_demo_looks_at_its_port_before_it_downloads(home: Home, busy_port: int) -> None:
    home.environment |= {"HEADWATER_DEMO_PORT": str(busy_port), "HEADWATER_CONFIG": str(REPOSITORY / "config")}
    assert f"HEADWATER_DEMO_PORT={busy_port + 1} make demo" in refused(home, "demo")
    assert not (home.state / "demo").exists()


def test_the_ui_does_not_start_on_a_broken_configuration(home: Home) -> None:
    home.edit_recipe("curation", "threshold = 0.8", "treshold = 0.8")
    assert "dedup.treshold: unknown key" in refused(home, "ui", "--port", "3999")


def test_a_wrong_python_is_one_message(tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text('#!/bin/sh\ncase "$2" in *sys.exit*) exit 1;; *) echo 3.9;; esac\n', encoding="utf-8")
    fake.chmod(0o755)
    result = subprocess.run(
        ["deploy/install.sh", str(fake), str(tmp_path / "venv")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "3.11" in result.stderr + result.stdout
    assert not (tmp_path / "venv/bin").exists()


def test_the_second_run_on_a_home_is_told_to_wait(home: Home) -> None:
    first = home.popen(*RUN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        scratch = home.state / "scratch"
        while first.poll() is None and not scratch.exists():
            pass
        assert "another `headwater run` works on" in refused(home, *RUN)
    finally:
        first.kill()
        first.wait()


def test_ctrl_c_is_one_message_and_leaves_no_process(home: Home) -> None:
    """As a terminal sends it: to the whole process group, workers and crawler included."""
    process = home.popen(*RUN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    scratch = home.state / "scratch" / "extracted_documents"
    while process.poll() is None and not scratch.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("error:")) == (1, 1), err
    assert "interrupted; the same command continues from what is published" in " ".join(err.split())
    assert "Traceback" not in err
    assert orphans(home) == 0
    assert "fresh" in home.states().values()


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk of one's own needs root")
def test_a_full_disk_is_named_and_the_same_command_ends_after_space_was_made(
    served: tuple[Path, int], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(disk)], check=True)
    try:
        home = Home.create(disk / "home", served[1])
        home.headwater(*RUN, "--no-train", "--at", STAMP)
        before = home.versions()
        ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(b"\0" * (free - 600_000))
        home.edit_recipe("curation", "threshold = 0.8", "threshold = 0.85")
        message = refused(home, *RUN, "--no-train")
        assert "No space left" in message or "disk" in message.lower()
        assert home.versions().keys() >= {"corpus[]"}
        ballast.unlink()
        home.headwater(*RUN, "--no-train")
        assert set(before) == set(home.versions())
        assert "all whole" in home.headwater("verify").stdout
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def alter(home: Home, path: str) -> Path:
    """Flip one bit of a published file; the object that holds it."""
    found = open_store(home.state / "store.git").local_path("main", path)
    content = bytearray(found.read_bytes())
    content[len(content) // 2] ^= 1
    found.chmod(0o644)
    found.write_bytes(bytes(content))
    return found


def test_an_altered_object_is_found_named_and_made_again(copy_of_built: Home) -> None:
    home = copy_of_built
    before = home.versions()
    alter(home, "dedup/corpus/documents-00000.parquet")
    report = home.json("verify", expect=3)
    assert [damage["problem"] for damage in report["damage"]] == ["altered"]
    assert "dedup/corpus/documents-00000.parquet" in report["damage"][0]["paths"]
    assert report["damage"][0]["commits"]
    remedy = "`headwater run --rebuild corpus`"
    assert remedy in " ".join(home.headwater("verify", expect=3).stdout.split())
    home.edit_recipe("curation", "[token_shards]", "[token_shards]\nmax_tokens_per_shard = 4_000_000")
    message = refused(home, *RUN, "--no-train")
    assert "dedup/corpus/documents-00000.parquet" in message
    assert "altered on disk after they were published. Nothing was built from them" in message
    assert remedy in message
    home.headwater(*RUN, "--no-train", "--rebuild", "corpus")
    assert home.versions()["corpus[]"] == before["corpus[]"]
    assert "all whole" in home.headwater("verify").stdout
    assert home.states()["token_shards[]"] == "fresh"


def test_what_is_published_once_is_not_made_again(copy_of_built: Home) -> None:
    home = copy_of_built
    assert "never built again" in refused(home, *RUN, "--rebuild", "raw_crawl")
    assert "no asset corpse; known: raw_crawl" in refused(home, *RUN, "--rebuild", "corpse")
    store = open_store(home.state / "store.git")
    crawl = next(info.path for info in store.list("main", "sources/raw_crawl/code@") if info.path.endswith(".parquet"))
    alter(home, crawl)
    said = " ".join(home.headwater("verify", expect=3).stdout.split())
    assert "raw_crawl is never made again: `headwater repair --from CLONE_OR_BACKUP` takes the object" in said


def test_a_partition_that_someone_typed_in_the_ui_is_left_out(copy_of_built: Home) -> None:
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(copy_of_built.state / "dagster")) as instance:
        instance.add_dynamic_partitions("crawl", ["whatever someone typed", "site@20269999T000000Z"])
        instance.add_dynamic_partitions("run", ["tiny@tomorrow"])
    assert "Everything is up to date" in copy_of_built.headwater(*RUN).stdout


def test_the_built_home_was_not_touched(built: Built) -> None:
    assert set(built.home.states().values()) == {"fresh"}
