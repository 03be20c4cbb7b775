"""Obtaining the demo sources, with an apt-get and a dpkg-deb of our own on PATH: no network, no root."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from assets.build import SilentProgress
from orchestration.run import demo
from orchestration.run.demo import LANGUAGES, DemoError, obtain

APT = """#!/bin/sh
# Knows the packages when the file lists-ok exists, or after an update with private lists; logs each call.
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case "$*" in
*update*)
    cat "$here/update-errors" >&2 2>/dev/null
    case "$*" in *Dir::State::Lists=*) : ;; *) echo "E: the system's lists are not ours" >&2; exit 100 ;; esac
    [ -e "$here/update-errors" ] && exit 0
    touch "$here/private-ok"; exit 0 ;;
esac
if [ ! -e "$here/lists-ok" ]; then
    case "$*" in *Dir::State::Lists=*) [ -e "$here/private-ok" ] ;; *) false ;; esac ||
        { echo "E: Unable to locate package debian-handbook" >&2; exit 100; }
fi
case "$*" in
*--print-uris*)
    echo "'http://mirror/h.deb' debian-handbook_11.1_all.deb 1000000 SHA256:00"
    echo "'http://mirror/r.deb' debian-reference-zh-cn_2.1_all.deb 500000 SHA256:00" ;;
*debian-handbook) echo deb > debian-handbook_11.1_all.deb ;;
*debian-reference-zh-cn) echo deb > debian-reference-zh-cn_2.1_all.deb ;;
esac
"""

DPKG = """#!/bin/sh
# dpkg-deb -x FILE FOLDER
case "$2" in
*handbook*)
    for language in LANGUAGES vi-VN; do
        mkdir -p "$3/usr/share/doc/debian-handbook/html/$language"
        echo "<p>$language" > "$3/usr/share/doc/debian-handbook/html/$language/index.html"
    done ;;
*) mkdir -p "$3/usr/share/debian-reference"
   echo "<p>ref" > "$3/usr/share/debian-reference/index.zh-cn.html"
   echo "<p>other" > "$3/usr/share/debian-reference/index.en.html" ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"apt-get": APT, "dpkg-deb": DPKG.replace("LANGUAGES", " ".join(LANGUAGES))}.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (folder / "lists-ok").touch()
    return folder


def calls(tools: Path) -> list[str]:
    path = tools / "calls"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_pages_are_laid_out_for_the_site(tools: Path, tmp_path: Path) -> None:
    served = obtain(tmp_path / "home", SilentProgress())
    pages = sorted(path.relative_to(served).as_posix() for path in served.rglob("*.html"))
    assert pages == [*(f"handbook/{lang}/index.html" for lang in sorted(LANGUAGES)), "reference/index.zh-cn.html"]
    marker = json.loads((tmp_path / "home/demo/obtained.json").read_text(encoding="utf-8"))
    assert marker["packages"] == {"debian-handbook": "11.1", "debian-reference-zh-cn": "2.1"}
    assert sorted(path.name for path in (tmp_path / "home/demo").iterdir()) == ["obtained.json", "www"]


def test_a_second_call_asks_nobody(tools: Path, tmp_path: Path) -> None:
    first = obtain(tmp_path, SilentProgress())
    before = calls(tools)
    assert obtain(tmp_path, SilentProgress()) == first
    assert calls(tools) == before


def test_an_interrupted_attempt_is_made_anew(tools: Path, tmp_path: Path) -> None:
    served = obtain(tmp_path, SilentProgress())
    (tmp_path / "demo/obtained.json").unlink()  # as if ended before the marker
    (served / "reference/index.zh-cn.html").unlink()
    assert (obtain(tmp_path, SilentProgress()) / "reference/index.zh-cn.html").exists()


def test_missing_lists_are_fetched_privately(tools: Path, tmp_path: Path) -> None:
    (tools / "lists-ok").unlink()
    served = obtain(tmp_path, SilentProgress())
    assert (served / "handbook/zh-CN/index.html").exists()
    updates = [call for call in calls(tools) if call.endswith("update")]
    assert len(updates) == 1
    assert f"Dir::State::Lists={tmp_path / 'demo'}/work-" in updates[0]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("W: Failed to fetch http://mirror/InRelease  Could not connect to mirror:80", "mirror cannot be reached"),
        ("E: You don't have enough free space in /var/cache\nE: No space left on device", "disk is full"),
        ("W: GPG error: The following signatures couldn't be verified: NO_PUBKEY 0", "does not trust"),
        ("", "do not have them.*universe"),
    ],
)
def test_a_failure_names_cause_and_remedy(tools: Path, tmp_path: Path, said: str, cause: str) -> None:
    (tools / "lists-ok").unlink()
    (tools / "update-errors").write_text(f"{said}\n", encoding="utf-8")
    with pytest.raises(DemoError, match=cause) as raised:
        obtain(tmp_path, SilentProgress())
    assert "Unable to locate package" in str(raised.value)
    assert list((tmp_path / "demo").iterdir()) == []


def test_without_apt_the_message_says_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DemoError, match=r"needs apt-get and dpkg-deb.*Debian or Ubuntu"):
        obtain(tmp_path, SilentProgress())


def test_a_full_disk_is_noticed_before_the_download(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**20))
    with pytest.raises(DemoError, match=r"10 MB free.*need 400 MB.*HEADWATER_HOME"):
        obtain(tmp_path, SilentProgress())
    assert calls(tools) == []


def test_another_layout_of_the_package_is_named(tools: Path, tmp_path: Path) -> None:
    script = tools / "dpkg-deb"
    script.write_text(script.read_text(encoding="utf-8").replace("index.zh-cn.html", "index.zh.html"), encoding="utf-8")
    with pytest.raises(DemoError, match=r"no pages \*.zh-cn.html in /usr/share/debian-reference"):
        obtain(tmp_path, SilentProgress())
