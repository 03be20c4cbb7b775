"""The Dagster UI behind its guard, with Dagster's daemon (schedules, sensors, the run queue) beside it.

Does what `dg dev` does, with the web server in this process: that is where the guard goes before it. As
`python -m orchestration.graph.ui.server HOST PORT [ORIGIN ...]` it is the web server alone, for a container.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.errors import HeadwaterError
from orchestration.config import REPOSITORY
from orchestration.graph.code_location import carry_over_instigators, module_target
from orchestration.graph.ui.guard import UiGuard, parse_origins
from orchestration.process.reaper import reap_dead_runs
from orchestration.upkeep.run_history import trim_history

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.workspace.load_target import WorkspaceLoadTarget

LOCALHOST = "127.0.0.1"
REAP_EVERY_S = 20.0
OPEN_CONNECTIONS_S = 3  # a browser's subscriptions never end by themselves
_DAEMON_ENDS_S = 60.0
_DAEMON = """
import runpy
from assets.child_process import end_with_parent
end_with_parent()
runpy.run_module("dagster._daemon", run_name="__main__")
"""
_STATEMENT_MS, _RECYCLE_S, _OVERFLOW, _POLL_MS = 15_000, 3_600, 20, 2_000  # what dagster-webserver uses


class UiError(HeadwaterError):
    """The UI could not go on. The message says why."""


def run_ui(instance: DagsterInstance, port: int, origins: Sequence[str]) -> None:
    """Serve UI and daemon on localhost until Ctrl+C or SIGTERM; nothing that was started lives on. Raises UiError."""
    from dagster._utils.log import configure_loggers

    parse_origins(origins)
    configure_loggers(log_level="INFO")
    for name in carry_over_instigators(instance):
        logging.getLogger("dagster").info(f"{name} is as it was set under the code location's earlier name")
    with _code_server(instance) as workspace_file, _daemon(workspace_file) as daemon:
        from dagster._core.workspace.load_target import WorkspaceFileTarget

        threading.Thread(target=_trim, args=(instance,), daemon=True).start()
        threading.Thread(target=_reap, args=(instance,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            serve(instance, WorkspaceFileTarget([str(workspace_file)]), LOCALHOST, port, origins, beside=daemon)
        if daemon.poll() is not None:
            raise UiError(f"Dagster's daemon ended with code {daemon.returncode}; its last lines are above")


def serve(
    instance: DagsterInstance,
    target: WorkspaceLoadTarget,
    host: str,
    port: int,
    origins: Sequence[str],
    beside: subprocess.Popen[bytes] | None = None,
) -> None:
    """Dagster's web application behind the guard, until a signal ends it, or the process `beside` it ends."""
    import uvicorn
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    instance.optimize_for_webserver(_STATEMENT_MS, _RECYCLE_S, _OVERFLOW)
    with WorkspaceProcessContext(instance, workspace_load_target=target, version=__version__) as workspace:
        app = create_app_from_workspace_process_context(workspace, live_data_poll_rate=_POLL_MS)
        server = uvicorn.Server(
            uvicorn.Config(
                UiGuard(app, origins),
                host=host,
                port=port,
                log_level="warning",
                timeout_graceful_shutdown=OPEN_CONNECTIONS_S,
            )
        )
        if beside is not None:

            def end_together() -> None:
                beside.wait()
                server.should_exit = True

            threading.Thread(target=end_together, daemon=True).start()
        server.run()


def _trim(instance: DagsterInstance) -> None:
    try:
        trim_history(instance)
    except Exception as error:  # the UI is more important
        logging.getLogger("dagster").warning(f"old runs stay in the history, `headwater gc` tries again: {error}")


def _reap(instance: DagsterInstance) -> None:
    """Show a `headwater run` that was killed as failed while the UI is open, not only at the next one."""
    while True:
        try:
            reap_dead_runs(instance)
        except Exception as error:  # a locked database passes
            logging.getLogger("dagster").warning(f"runs of dead processes are looked for again: {error}")
        time.sleep(REAP_EVERY_S)


@contextlib.contextmanager
def _code_server(instance: DagsterInstance) -> Iterator[Path]:
    """One process with our definitions for web server and daemon; a workspace file says where it listens."""
    import yaml
    from dagster._cli.proxy_server_manager import ProxyServerManager

    with (
        ProxyServerManager(instance, module_target(str(REPOSITORY)), code_server_log_level="warning") as servers,
        tempfile.TemporaryDirectory() as folder,
    ):
        workspace_file = Path(folder) / "workspace.yaml"
        workspace_file.write_text(yaml.safe_dump({"load_from": list(servers.get_code_server_specs())}), "utf-8")
        yield workspace_file


@contextlib.contextmanager
def _daemon(workspace_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, ended at the end: in a session of its own, or Ctrl+C in a terminal would reach it twice."""
    process = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, "run", "--workspace", str(workspace_file)],
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_DAEMON_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> None:
    """The guarded web server alone, on $DAGSTER_HOME."""
    from orchestration.graph.ui.home_instance import open_home_instance
    from orchestration.process.workplace import open_workplace

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container's end: code server first, as by Ctrl+C
    host, port, *origins = arguments
    with open_home_instance(open_workplace().dagster_home) as instance, contextlib.suppress(KeyboardInterrupt):
        carry_over_instigators(instance)
        serve(instance, module_target(str(REPOSITORY)), host, int(port), origins)


if __name__ == "__main__":
    main(sys.argv[1:])
