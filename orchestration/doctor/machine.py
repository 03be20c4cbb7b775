"""Doctor's checks of the machine: Python, torch, disk, memory, cores, tools, clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from orchestration.doctor.finding import Finding, Severity, well

GIB = 2**30
DEMO_DISK_GIB = 8  # store, checkpoints and scratch of the demo, with room for a second run
DEMO_MEMORY_GIB = 4  # two training processes of about 1 GiB, the driver, the page cache
SLOW_FSYNC_S = 0.1  # a commit of 1,000 files then takes minutes
SHARED_MEMORY_MIB = 256  # torch and the data loaders; containers often have 64
OPEN_FILES = 1024
CLOCK_BEHIND_S = 60  # a file server's clock may differ so much
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"
_TORCH = (
    "import torch\n"
    "n = torch.cuda.device_count() if torch.cuda.is_available() else 0\n"
    "print(torch.__version__, *(torch.cuda.get_device_name(i) for i in range(n)), sep='\\t')"
)
_TORCH_TIMEOUT_S = 60


def python_version() -> Finding:
    """3.11 or newer."""
    found = ".".join(map(str, sys.version_info[:3]))
    remedy = "Install Python 3.11 or newer, remove .venv and run `make venv PYTHON=python3.11`."
    return Finding("Python", sys.version_info >= (3, 11), "error", f"{found} ({sys.executable})", remedy)


def torch() -> Finding:
    """Whether torch can be imported, and what it can compute on."""
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding(
            "torch", False, "warning", f"no answer in {_TORCH_TIMEOUT_S} s", "The disk is slow or busy: wait."
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Finding("torch", False, "error", last, "Run `make venv`; on an old CPU install a torch built for it.")
    version, *devices = done.stdout.strip().split("\t")
    return well("torch", f"{version} on {', '.join(devices) if devices else 'CPU (no GPU found: demo-size models)'}")


def disk_and_files(home: Path, *, for_demo: bool) -> list[Finding]:
    """Space, and what the store needs of a file system, tried on the nearest folder that exists."""
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    needed = DEMO_DISK_GIB if for_demo else 2
    free = shutil.disk_usage(nearest).free / GIB
    other_home = "Set HEADWATER_HOME to a folder"
    findings = [
        Finding(
            "disk", free >= needed, "error", f"{free:.0f} GiB free, {needed} needed", f"{other_home} on a larger disk."
        )
    ]
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".doctor-") as probe:
            findings.append(_try_file_system(home, Path(probe)))
    except OSError as error:
        remedy = f"{other_home} that you may write."
        findings.append(
            Finding("HEADWATER_HOME", False, "error", f"{nearest} cannot be written: {error.strerror}", remedy)
        )
    shared = Path("/dev/shm")
    if shared.is_dir():
        mib = shutil.disk_usage(shared).total / 2**20
        remedy = f"Start the container with --shm-size={SHARED_MEMORY_MIB}m or more."
        findings.append(Finding("/dev/shm", mib >= SHARED_MEMORY_MIB, "warning", f"{mib:.0f} MiB", remedy))
    return [*findings, _open_files()]


def _try_file_system(home: Path, probe: Path) -> Finding:
    """Rename over a file, hard link, fsync of file and folder: crash safety and cheap commits rest on them."""
    name, remedy = "HEADWATER_HOME", "Set HEADWATER_HOME to a folder on a local file system (ext4, xfs, btrfs)."
    first, second = probe / "a", probe / "b"
    try:
        second.write_bytes(b"old")
        fsync_s = min(_timed_fsync(first) for _ in range(3))  # the best: a busy moment is not a slow disk
        os.replace(first, second)
        folder = os.open(probe, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        return Finding(name, False, "error", f"{home}: rename or fsync does not work: {error.strerror}", remedy)
    if second.read_bytes() != b"new":
        return Finding(name, False, "error", f"{home}: a renamed file does not show its new content", remedy)
    try:
        os.link(second, probe / "c")
    except OSError as error:
        return Finding(name, False, "warning", f"{home}: no hard links ({error.strerror}): data is copied", remedy)
    if fsync_s > SLOW_FSYNC_S:
        return Finding(name, False, "warning", f"{home}: {fsync_s * 1000:.0f} ms an fsync: commits are slow", remedy)
    return well(name, f"{home} (rename, hard link, fsync {fsync_s * 1000:.1f} ms)")


def _timed_fsync(path: Path) -> float:
    with path.open("wb") as file:
        file.write(b"new")
        file.flush()
        started = time.monotonic()
        os.fsync(file.fileno())
        return time.monotonic() - started


def _open_files() -> Finding:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= OPEN_FILES
    found = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    return Finding("open files", enough, "warning", found, f"Raise it before a run: ulimit -n {OPEN_FILES * 4}.")


def memory_and_cores() -> list[Finding]:
    """What this process may use: the machine's, or less where a container limits it."""
    import psutil

    available = psutil.virtual_memory().available
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    if limit:
        available = min(available, limit - (_cgroup_number("memory.current", "memory/memory.usage_in_bytes") or 0))
    cores = float(len(os.sched_getaffinity(0)))
    quota = _cpu_quota()
    if quota:
        cores = min(cores, quota)
    enough = available / GIB >= DEMO_MEMORY_GIB
    return [
        Finding(
            "memory",
            enough,
            "warning",
            f"{available / GIB:.1f} GiB available{'' if enough else f', {DEMO_MEMORY_GIB} wanted'}",
            "Close other programs, or lower `workers` in config/profiles/.",
        ),
        Finding("cores", cores >= 2, "warning", f"{cores:g}", "With one core the demo takes about twice as long."),
    ]


def _cgroup_number(*names: str) -> int | None:
    """The first of these control files that holds a number; `max` and version 1's huge default mean no limit."""
    for name in names:
        try:
            text = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None


def _cpu_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return int(quota) / int(period) if quota.isdigit() else None


def tools(home: Path, *, for_demo: bool) -> list[Finding]:
    """Programs that are called, and those that only help to look at the store from outside."""
    findings = [
        _tool("git", "info", "Not needed to run: to read the store's history with plain git, install git."),
        _tool("git-lfs", "info", "Not needed to run: to clone the store's data with plain git, install git-lfs."),
    ]
    if for_demo and not (home / "demo/obtained.json").exists():
        remedy = "The demo fetches Debian packages: run it on Debian or Ubuntu, or use a source of your own."
        findings += [_tool(name, "error", remedy) for name in ("apt-get", "dpkg-deb")]
    return findings


def _tool(name: str, severity: Severity, remedy: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, severity, path or "not found on PATH", remedy)


def clock(known: Iterable[Path], committed_at: float = 0.0) -> Finding:
    """Crawls and runs are named by time: a clock behind the files on this disk or the newest commit of the store would
    order them wrongly. One that is ahead shows only to who reads it beside the time of that commit."""
    newest = max((path.stat().st_mtime for path in known if path.exists()), default=0.0)
    found = time.strftime(_MOMENT, time.gmtime())
    if committed_at:
        found += f"; the newest commit of the store is of {time.strftime(_MOMENT, time.gmtime(committed_at))}"
    behind_s = max(newest, committed_at) - time.time()
    if behind_s > CLOCK_BEHIND_S:
        what = "file of this project" if newest > committed_at else "commit of the store"
        found += f": the clock is {behind_s / 3600:.1f} hours before the newest {what}"
    return Finding("clock", behind_s <= CLOCK_BEHIND_S, "error", found, "Set the clock (timedatectl set-ntp true).")
