"""No library calls out on its own account, and a user's explicit choice wins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestration.process.offline import DEFAULTS, apply_offline_defaults

PROGRAM = """
import os, socket
from orchestration.process.offline import apply_offline_defaults
apply_offline_defaults(os.environ)

calls = []
def refused(*arguments, **options):
    calls.append(arguments)
    raise OSError("the test allows no network")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refused

import tldextract
assert tldextract.extract("http://a.example.com.cn/").suffix == "com.cn"

import huggingface_hub
from huggingface_hub.errors import OfflineModeIsEnabled
try:
    huggingface_hub.HfApi().model_info("some/model")
except OfflineModeIsEnabled:
    pass

from tokenizers import Tokenizer
try:
    Tokenizer.from_pretrained("some/model")
except Exception:
    pass

from dagster._core.telemetry_upload import is_running_in_test
assert is_running_in_test(), "Dagster would upload"
from wandb.env import error_reporting_enabled
assert not error_reporting_enabled(), "W&B would report errors"
assert not calls, calls
"""


def test_everything_is_set_in_an_empty_environment() -> None:
    environ: dict[str, str] = {}
    apply_offline_defaults(environ)
    assert environ == DEFAULTS


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "online"), ("HF_HUB_OFFLINE", "0"), ("DO_NOT_TRACK", "")])
def test_what_the_user_set_stays(name: str, value: str) -> None:
    environ = {name: value}
    apply_offline_defaults(environ)
    assert environ[name] == value
    assert set(environ) == set(DEFAULTS)


def test_a_second_call_changes_nothing() -> None:
    environ: dict[str, str] = {}
    apply_offline_defaults(environ)
    before = dict(environ)
    apply_offline_defaults(environ)
    assert environ == before


def test_the_libraries_open_no_connection() -> None:
    environ = {key: value for key, value in os.environ.items() if key not in DEFAULTS}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
