"""What the plan counts is compared with the training program's own models, on a CPU, over the data of its tests."""

from tests.training.conftest import _on_cpu as _on_cpu
from tests.training.conftest import data as data
