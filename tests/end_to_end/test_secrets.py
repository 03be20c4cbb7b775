"""Tokens in sources.toml by the real command: none is in the store, in Dagster's database, in a log or on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.assets.sources.site import Page, html, serve
from tests.canaries import forms_of, found_below
from tests.end_to_end.harness import STAMP, Home

SECRETS = {"HW_FOLDER": "canary-folder-77", "HW_QUERY": "q/canary-1=xyz", "HW_PASSWORD": "canary:p@ss"}
SOURCES = """
[guarded]
kind = "web"
licence = "CC0-1.0"
domain = "documentation"
format = "html"
start_urls = ["SITE/${HW_FOLDER}/index.html?t=${HW_QUERY}"]
delay_s = 0
retries = 1
retry_wait_s = 0.01
allow_private_hosts = true

[gone]
kind = "web"
licence = "CC0-1.0"
domain = "documentation"
format = "html"
start_urls = ["SITE/gone/${HW_QUERY}/"]
delay_s = 0
allow_private_hosts = true

[down]
kind = "dataset"
licence = "CC0-1.0"
domain = "documentation"
paths = ["http://me:${HW_PASSWORD}@127.0.0.1:9/${HW_FOLDER}/rows.jsonl?t=${HW_QUERY}"]
retries = 1
retry_wait_s = 0.01
allow_private_hosts = true
"""


@pytest.mark.slow
def test_no_secret_is_kept_or_shown(tmp_path: Path) -> None:
    where, token = f"/{SECRETS['HW_FOLDER']}/", SECRETS["HW_QUERY"]
    pages = {
        f"{where}index.html?t={token}": Page(
            html("Index", f"two.html?t={token}", f"moved.html?t={token}", text=f"You came with {token}.")
        ),
        f"{where}two.html?t={token}": Page(html("Two", text="The second page of a small site."), fails_first=1),
        f"{where}moved.html?t={token}": Page(status=302, headers={"Location": f"{where}two.html?t={token}"}),
    }
    home = Home.create(tmp_path, 9)
    home.environment |= SECRETS
    said = ""
    with serve(pages) as site:
        (home.config / "sources.toml").write_text(SOURCES.replace("SITE", site.url))
        for command in (
            ("run", "--recipe", "tiny", "--no-train", "--at", STAMP),
            ("run", "--recipe", "tiny", "--no-train", "--json"),
            ("status", "--json"),
            ("doctor", "--json"),
            ("export", f"raw_crawl@guarded@{STAMP}#captures", str(tmp_path / "captures.parquet")),
        ):
            done = home.headwater(*command, expect=None)
            said += done.stdout + done.stderr
    assert f"{where}two.html?t={token}" in site.requests
    assert "raw_crawl" in said and "${HW_QUERY}" in said and (tmp_path / "captures.parquet").exists()
    assert [form for form in forms_of(SECRETS.values()) if form in said.encode()] == []
    assert found_below(tmp_path, SECRETS.values()) == []
    looked_in = " ".join(found_below(tmp_path / "state", ["${HW_QUERY}", "Publish raw_crawl[guarded@"]))
    places = ("store.git/lfs/objects/", "store.git:", ".db: ")
    assert [place for place in places if place not in looked_in] == [], "the scan sees into all of them"
    versions = home.versions()
    home.environment |= {"HW_FOLDER": "another-canary-8"}
    assert home.states()[f"raw_crawl[guarded@{STAMP}]"] == "fresh"
    assert home.versions() == versions
