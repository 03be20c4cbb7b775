"""Launchers are tested with real runs of the training program: its tests' data, and its undisturbed run."""

from tests.training.conftest import _on_cpu as _on_cpu
from tests.training.conftest import data as data
from tests.training.conftest import undisturbed as undisturbed
