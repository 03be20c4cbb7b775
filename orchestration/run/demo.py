"""The demo's outside world: two free books from Debian packages, served on localhost as a web site.

    root = obtain(home, progress)             # by package name, through apt, no root needed
    with DemoSite(root, 8765) as site:        # http://127.0.0.1:8765/handbook/zh-CN/index.html ...
        crawl(site.url)

The Debian Administrator's Handbook exists in many languages, page for page: a real multilingual site
with real near-duplicates. Files keep the times of the package, so ETag and Last-Modified are honest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.build import Progress
from orchestration.run.demo_site import DemoError as DemoError
from orchestration.run.demo_site import DemoSite as DemoSite
from orchestration.run.demo_site import PortBusyError as PortBusyError
from orchestration.run.demo_site import demo_port as demo_port
from orchestration.run.demo_site import refuse_busy_port as refuse_busy_port

PACKAGES = ("debian-handbook", "debian-reference-zh-cn")
LANGUAGES = ("zh-CN", "zh-TW", "en-US", "fr-FR", "de-DE", "ja-JP")
_LAYOUT = 1  # of the served folder; raise it when `_arrange` changes, and old folders are made anew
_NEEDED_MB = 400  # 37 MB of packages, 100 unpacked, up to 200 of private package lists
_APT_TIMEOUT_S = 900


@dataclass(frozen=True)
class _Package:
    name: str
    size_bytes: int


def obtain(home: Path, progress: Progress) -> Path:
    """The folder to serve, made on the first call and only found again on later ones. Raises DemoError."""
    if found := obtained(home):
        return found
    folder, served, marker = _places(home)
    _require_tools_and_space(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="work-") as work:
            _make(Path(work), served, marker, progress)
    except OSError as error:
        raise DemoError(f"{folder}: {error}. Free some space there, or set HEADWATER_HOME to another disk.") from error
    return served


def obtained(home: Path) -> Path | None:
    """The folder to serve, if `obtain` has made it in this home."""
    _, served, marker = _places(home)
    return served if _is_done(marker) and served.is_dir() else None


def _places(home: Path) -> tuple[Path, Path, Path]:
    """The demo's folder, in it the one to serve, and the file that says that it is whole."""
    folder = home / "demo"
    return folder, folder / "www", folder / "obtained.json"


def _make(work: Path, served: Path, marker: Path, progress: Progress) -> None:
    """Everything is made in `work` and moved into place whole; the marker last."""
    versions = _download(work, progress)
    progress.update(1, 1, "unpacking")
    unpacked = work / "unpacked"
    for package in sorted(work.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(unpacked)], work)
    _arrange(unpacked, work / "www")
    shutil.rmtree(served, ignore_errors=True)
    os.replace(work / "www", served)
    (work / "marker").write_text(json.dumps({"layout": _LAYOUT, "packages": versions}), encoding="utf-8")
    os.replace(work / "marker", marker)


def _is_done(marker: Path) -> bool:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))["layout"] == _LAYOUT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _require_tools_and_space(folder: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise DemoError(
            f"The demo fetches its sources as Debian packages and needs {' and '.join(missing)}, not found on PATH. "
            "Run it on Debian or Ubuntu (a container will do), or name a source of your own in config/sources.toml "
            "and use `headwater run`."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(
            f"{folder} cannot be created: {error}. Set HEADWATER_HOME to a folder you may write."
        ) from error
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb < _NEEDED_MB:
        raise DemoError(
            f"{folder} has {free_mb} MB free; the demo sources need {_NEEDED_MB} MB while they are unpacked. "
            "Free some space, or set HEADWATER_HOME to another disk."
        )


def _download(work: Path, progress: Progress) -> dict[str, str]:
    """The packages into `work`; package name -> version. Uses the system's lists, else private fresh ones."""
    progress.update(0, None, "asking apt")
    options: list[str] = []
    try:
        planned = _planned(work, options)
        _fetch(work, options, planned, progress)
    except _AptFailure:  # lists missing (a fresh container) or stale (the version is gone from the mirror)
        progress.update(0, None, "updating package lists")
        options = _private_lists(work)
        updated = _apt(work, options, "update", check=False)
        try:
            planned = _planned(work, options)
            _fetch(work, options, planned, progress)
        except _AptFailure as failure:
            raise DemoError(_explain(f"{updated.stderr}\n{failure}")) from None
    return dict(path.name.split("_")[:2] for path in work.glob("*.deb"))


class _AptFailure(Exception):
    """What apt-get printed to standard error."""


def _private_lists(work: Path) -> list[str]:
    """Options with which apt-get reads and writes only below `work`: no root, and the system stays as it is."""
    lists, cache = work / "apt" / "lists", work / "apt" / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    options = {
        "Dir::State::Lists": str(lists),
        "Dir::Cache": str(cache),
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
    }
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]


def _apt(work: Path, options: Sequence[str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    fixed = ("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "APT::Sandbox::User=root")
    return _run(["apt-get", "-qq", *fixed, *options, *arguments], work, check=check)


def _run(command: Sequence[str], work: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DemoError(f"{command[0]} did not finish in {_APT_TIMEOUT_S} s; is the network up? Try again.") from None
    if check and done.returncode:
        if command[0] == "apt-get":
            raise _AptFailure(done.stderr)
        raise DemoError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done


def _planned(work: Path, options: Sequence[str]) -> list[_Package]:
    """What apt would download, with sizes: lines like `'http://...' name_1.0_all.deb 123 SHA256:...`."""
    printed = _apt(work, options, "download", "--print-uris", *PACKAGES).stdout
    found = re.findall(r"^'[^']*' ([^_\s]+)_\S+\.deb (\d+)", printed, re.MULTILINE)
    if {name for name, _ in found} != set(PACKAGES):
        raise _AptFailure(f"apt-get offers {found} instead of {', '.join(PACKAGES)}")
    return [_Package(name, int(size)) for name, size in found]


def _fetch(work: Path, options: Sequence[str], planned: Sequence[_Package], progress: Progress) -> None:
    """Download one package after the other, showing megabytes; apt verifies the signed checksums."""
    total_mb = round(sum(package.size_bytes for package in planned) / 1e6)
    stopped = threading.Event()

    def show(note: str) -> None:
        arrived = sum(path.stat().st_size for path in work.glob("*.deb")) / 1e6
        progress.update(min(round(arrived), total_mb), total_mb, note)

    def watch() -> None:
        while not stopped.wait(0.5):
            with contextlib.suppress(OSError):  # apt renames a file meanwhile
                show("MB of packages")

    watcher = threading.Thread(target=watch, name="demo-download", daemon=True)
    watcher.start()
    try:
        for package in planned:
            _apt(work, options, "download", package.name)
    finally:
        stopped.set()
        watcher.join()
    show("MB downloaded")


# In this order: a mirror that cannot be reached also leaves packages that cannot be located.
_CAUSES = (
    (
        r"no space left|not have enough free space",
        "The disk is full.",
        "Free some space, or set HEADWATER_HOME to another disk.",
    ),
    (
        r"not signed|no_pubkey|signature",
        "apt does not trust the mirror's signature.",
        "Install debian-archive-keyring (or ubuntu-keyring), and check the clock of this machine.",
    ),
    (
        r"temporary failure|could not resolve|could not connect|connection (failed|refused|timed out)"
        r"|network is unreachable|failed to fetch|some index files failed",
        "The package mirror cannot be reached.",
        "Check the network and the proxy (http_proxy, or Acquire::http::Proxy in /etc/apt/apt.conf), then try again.",
    ),
    (
        r"unable to locate package|no candidate|no packages? found",
        "The configured package sources do not have them.",
        "On Ubuntu enable the component `universe`; on Debian check that `main` is in /etc/apt/sources.list.",
    ),
)


def _explain(errors: str) -> str:
    """A DemoError's message: what was wanted, the cause, the remedy, and apt's own words."""
    cause, remedy = "apt-get failed.", "Its own words are below."
    for pattern, known_cause, known_remedy in _CAUSES:
        if re.search(pattern, errors, re.IGNORECASE):
            cause, remedy = known_cause, known_remedy
            break
    said = "\n".join(dict.fromkeys(line for line in errors.splitlines() if line.startswith(("E:", "Err:", "W:"))))
    return f"The demo sources ({', '.join(PACKAGES)}) could not be fetched. {cause} {remedy}\n{said[-1500:]}".strip()


def _arrange(unpacked: Path, served: Path) -> None:
    """The pages that the site shows, as handbook/<language>/ and reference/."""
    trees = {
        f"handbook/{language}": (unpacked / "usr/share/doc/debian-handbook/html" / language, "*.html")
        for language in LANGUAGES
    }
    trees["reference"] = (unpacked / "usr/share/debian-reference", "*.zh-cn.html")
    for name, (source, pattern) in trees.items():
        pages = sorted(source.glob(pattern))
        if not pages:
            raise DemoError(
                f"The Debian packages unpacked well but have no pages {pattern} in /{source.relative_to(unpacked)}: "
                "their layout differs in this release. Debian 12 (bookworm) is known to work."
            )
        (served / name).mkdir(parents=True)
        for page in pages:
            shutil.move(page, served / name / page.name)
