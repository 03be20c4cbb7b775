"""Our code location in Dagster: one name, under which the UI lists runs and keeps which schedules and sensors are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.workspace.load_target import ModuleTarget

LOCATION = "headwater"
"""The same in `headwater ui`, in deploy/workspace.yaml, and for the runs of `headwater run`."""
MODULE = "orchestration.graph.definitions"


def module_target(working_directory: str) -> ModuleTarget:
    """Where Dagster finds the definitions."""
    from dagster._core.workspace.load_target import ModuleTarget

    return ModuleTarget(MODULE, None, working_directory, LOCATION)


def job_origin(job: str) -> RemoteJobOrigin:
    """What a run carries that no code location started, so that Overview, Jobs and Timeline list it as one of the job."""
    return _repository().get_job_origin(job)


def carry_over_instigators(instance: DagsterInstance) -> list[str]:
    """Bring schedules and sensors that were turned on or off under another name of the location; returns which.

    Earlier versions named it after the folder of the repository or after a module. What is set under our own name is
    newer and stays. The old entry is deleted: one that stayed would bring back a choice that was taken back since.
    """
    from dagster._core.scheduler.instigation import InstigatorState

    ours = _repository()
    states = [s for s in instance.all_instigator_state() if s.origin.repository_origin.repository_name == _name()]
    known = {s.instigator_name for s in states if s.origin.location_name == LOCATION}
    carried = []
    for state in (s for s in states if s.origin.location_name != LOCATION):
        if state.instigator_name not in known:
            origin = ours.get_instigator_origin(state.instigator_name)
            instance.add_instigator_state(
                InstigatorState(origin, state.instigator_type, state.status, state.instigator_data)
            )
            known.add(state.instigator_name)
            carried.append(state.instigator_name)
        instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)
    return sorted(carried)


def _name() -> str:
    from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME

    return SINGLETON_REPOSITORY_NAME


def _repository() -> RemoteRepositoryOrigin:
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

    return RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), _name())
