"""A real Slurm of one node on this machine, for as long as a block runs. Needs root and Debian's slurm-wlm and munge."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
STARTS_WITHIN_S = 40
CONTROLLER_PORT, NODE_PORT = 16827, 16828
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller_port}
SlurmdPort={node_port}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=20000 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class SlurmUnavailableError(Exception):
    """This machine cannot run a Slurm of its own; the message says what is missing."""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start munge, the controller and a node in `folder`; the environment in which sbatch reaches them."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        raise SlurmUnavailableError(f"needs root and slurm-wlm, munge (apt-get install); missing: {missing or 'root'}")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    for parent in (folder, *folder.parents):  # munge runs as a user of its own, and must come through
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    shutil.chown(folder / "munge", "munge", "munge")
    path = folder / "slurm.conf"
    path.write_text(
        CONFIGURATION.format(folder=folder, controller_port=CONTROLLER_PORT, node_port=NODE_PORT), encoding="utf-8"
    )
    environment = os.environ | {"SLURM_CONF": str(path)}
    munge = [f"--{name}={folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    with ExitStack() as stack:
        _daemon(stack, ["runuser", "-u", "munge", "--", "munged", "--foreground", *munge], environment)
        _until(lambda: (folder / "munge/socket").exists(), "munged", folder)
        _daemon(stack, ["slurmctld", "-D"], environment)
        _daemon(stack, ["slurmd", "-D", "-N", "localhost"], environment)
        _until(lambda: "idle" in _nodes(environment), "slurmd", folder)
        yield environment


def _daemon(stack: ExitStack, command: list[str], environment: dict[str, str]) -> None:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _nodes(environment: dict[str, str]) -> str:
    found = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
    return found.stdout


def _until(ready: Callable[[], bool], what: str, folder: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not ready():
        if time.monotonic() > deadline:
            raise SlurmUnavailableError(f"{what} did not start; see the logs in {folder}")
        time.sleep(0.2)
