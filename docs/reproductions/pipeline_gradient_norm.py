"""torchtitan 0.2.2 reports and clips a gradient that is too large by the tokens of a step, once there is a pipeline.

    torchrun --nproc-per-node 1 docs/reproductions/pipeline_gradient_norm.py
    torchrun --nproc-per-node 2 docs/reproductions/pipeline_gradient_norm.py

torchtitan's own Trainer, loss and pipeline on the same model and the same 4 x 64 random tokens: one process, then a
pipeline of two stages. The second prints 256 times the first. On a GPU machine it runs as it is.
"""

# ruff: noqa: E402

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from training.machine import cpu_support

cpu_support.enable()

from torchtitan.components.loss import build_cross_entropy_loss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.config import JobConfig
from torchtitan.models.llama3 import get_train_spec
from torchtitan.protocols.train_spec import register_train_spec
from torchtitan.train import Trainer

from training.contract.request import ModelShape
from training.model.llama import SeededTransformer, model_args

SHAPE = ModelShape(dim=64, n_layers=4, n_heads=4, n_kv_heads=4, vocab_size=128, sequence_length=64)
SEQUENCES = 4


class SameBatch:
    """One batch of random tokens, without end."""

    def __iter__(self):
        tokens = torch.randint(0, 128, (SEQUENCES, 65), generator=torch.Generator().manual_seed(0))
        while True:
            yield {"input": tokens[:, :-1]}, tokens[:, 1:]

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


class PrintNorm(MetricsProcessor):
    """The gradient norm that torchtitan measured before it clipped."""

    def log(self, step, global_avg_loss, global_max_loss, grad_norm, extra_metrics=None):
        if int(os.environ["RANK"]) == 0:
            print(f"{self.parallel_dims.pp} pipeline stage(s): gradient norm {grad_norm:.6g}", flush=True)


def main() -> None:
    """One step."""
    spec = get_train_spec()
    spec.model_cls = SeededTransformer  # the same initial weights whatever the layout
    spec.model_args = {"tiny": model_args(SHAPE)}
    spec.build_tokenizer_fn = spec.build_validator_fn = spec.state_dict_adapter = None
    spec.build_dataloader_fn = lambda **_: SameBatch()
    spec.build_loss_fn = build_cross_entropy_loss
    spec.build_metrics_processor_fn = lambda config, dims, _: PrintNorm(config, dims)
    register_train_spec("reproduction", spec)
    config = JobConfig()
    config.model.name, config.model.flavor = "reproduction", "tiny"
    config.parallelism.pipeline_parallel_degree = int(os.environ["WORLD_SIZE"])
    config.training.seq_len, config.training.steps = 64, 1
    config.training.local_batch_size = config.training.global_batch_size = SEQUENCES
    config.training.mixed_precision_param = "float32"
    config.activation_checkpoint.mode = "none"
    config.metrics.log_freq = 1
    config.comm.trace_buf_size = 0
    trainer = Trainer(config)
    trainer.step = 1
    trainer.train_step(trainer.batch_generator(trainer.dataloader))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
