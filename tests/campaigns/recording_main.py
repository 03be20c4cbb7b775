"""The training program, which also writes down what it reads: a line per micro-batch in RECORD_INTO/rank-R.jsonl."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from training import main as program
from training.machine import cpu_support

cpu_support.enable()

from training.trainer import OrderedTrainer  # noqa: E402

process = OrderedTrainer.post_dataloading_process


def recording_process(self: OrderedTrainer, input_dict: dict[str, torch.Tensor], labels: torch.Tensor) -> Any:
    digests = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in input_dict["input"].cpu()]
    with Path(os.environ["RECORD_INTO"], f"rank-{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(json.dumps({"step": self.step, "sequences": digests}) + "\n")
    return process(self, input_dict, labels)


OrderedTrainer.post_dataloading_process = recording_process  # type: ignore[method-assign]

if __name__ == "__main__":
    status = program.main()
    os._exit(status)
