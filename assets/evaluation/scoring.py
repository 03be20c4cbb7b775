"""How probable a checkpoint finds given tokens: the one place in the evaluation that knows torch.

Numbers must not depend on the machine's thread count, so each checkpoint is scored by a single
torch thread and `for_each_checkpoint` runs several checkpoints side by side instead. Batches are
formed by length and size alone; logits are computed in row chunks, so that memory is bounded by
`batch_tokens` and `LOGIT_ROWS * vocabulary`, not by a batch times the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from assets.build import BuildError, Progress, Segment

LOGIT_ROWS = 1024
"""Rows of logits in memory at once: 1024 x 50,000 float32 = 200 MB."""

Tokens = Sequence[int] | np.ndarray

Result = TypeVar("Result")


@dataclass(frozen=True)
class Checkpoint:
    """One saved step: where its weights are and how much it has read."""

    run: str
    step: int
    tokens_seen: int
    config: Path
    weights: Path
    weights_sha256: str


class AnswerScorer(Protocol):
    """What probes and needles need of a model."""

    max_tokens: int

    def loss_of_answers(
        self, prefixes: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]
    ) -> list[list[np.ndarray]]:
        """For each prefix and each of its answers: the loss (nats) of every answer token."""
        ...


def list_checkpoints(segment: Segment) -> list[Checkpoint]:
    """The checkpoints of a run, by step. Raises BuildError when there are none."""
    rows = sorted(segment.table("checkpoints").to_pylist(), key=lambda row: row["step"])
    if not rows:
        raise BuildError(f"{segment.asset}/{segment.partition} has no checkpoints: nothing to evaluate")
    return [
        Checkpoint(
            run=row["run"],
            step=row["step"],
            tokens_seen=row["tokens_seen"],
            config=segment.path(f"{row['folder']}/hf/config.json"),
            weights=segment.path(f"{row['folder']}/hf/model.safetensors"),
            weights_sha256=row["weights_sha256"],
        )
        for row in rows
    ]


def model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The Hugging Face configuration as it was exported: defaults of the library are not in it."""
    return json.loads(checkpoint.config.read_text(encoding="utf-8"))


def for_each_checkpoint(
    checkpoints: Sequence[Checkpoint],
    score: Callable[[Checkpoint, Scorer], Result],
    *,
    batch_tokens: int,
    workers: int,
    progress: Progress,
) -> list[Result]:
    """`score(checkpoint, scorer)` for each, in order; at most `workers` models in memory at once."""

    def one(checkpoint: Checkpoint) -> Result:
        return score(checkpoint, Scorer.load(checkpoint, batch_tokens=batch_tokens))

    import transformers.models.llama.modeling_llama  # noqa: F401  its lazy import is not safe in two threads at once

    results: list[Result] = []
    with _single_torch_thread(), ThreadPoolExecutor(max_workers=max(1, min(workers, len(checkpoints)))) as pool:
        for checkpoint, result in zip(checkpoints, pool.map(one, checkpoints), strict=True):
            results.append(result)
            progress.update(len(results), len(checkpoints), f"step {checkpoint.step} scored")
    return results


@contextmanager
def _single_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Scorer:
    """A causal language model in evaluation mode, float32."""

    def __init__(self, model: Any, *, max_tokens: int, batch_tokens: int = 4096) -> None:
        self.model = model.float().eval()
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, batch_tokens: int = 4096) -> Scorer:
        """Read a checkpoint's export. Raises BuildError if the weights are not those that training recorded."""
        import safetensors.torch
        from transformers.models.llama import LlamaConfig, LlamaForCausalLM

        where = f"checkpoint {checkpoint.run} step {checkpoint.step}"
        with checkpoint.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != checkpoint.weights_sha256:
            raise BuildError(
                f"{where}: model.safetensors has SHA-256 {digest}, the checkpoint table says "
                f"{checkpoint.weights_sha256}: the weights were altered, restore or retrain them"
            )
        raw = model_config(checkpoint)
        if raw.get("model_type") != "llama":
            raise BuildError(f"{where}: config.json has model_type {raw.get('model_type')!r}, only 'llama' is scored")
        config = LlamaConfig.from_dict(raw)
        model = LlamaForCausalLM(config)
        found = model.load_state_dict(safetensors.torch.load_file(checkpoint.weights), strict=False)
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        missing = set(found.missing_keys) - tied
        if missing or found.unexpected_keys:
            raise BuildError(
                f"{where}: weights do not fit config.json: missing {sorted(missing)[:5]}, "
                f"unexpected {sorted(found.unexpected_keys)[:5]}; export the checkpoint again"
            )
        model.tie_weights()
        return cls(model, max_tokens=int(config.max_position_embeddings), batch_tokens=batch_tokens)

    def loss_of_tokens(self, sequences: Sequence[Tokens]) -> list[np.ndarray]:
        """For each sequence: the loss (nats) of its tokens 1.. given those before; the first is only context."""
        import torch

        self._refuse_too_long(max((len(tokens) - 1 for tokens in sequences), default=0))
        results: list[np.ndarray] = [np.zeros(0)] * len(sequences)
        for batch in self._batches([len(tokens) - 1 for tokens in sequences]):
            width = max(len(sequences[i]) for i in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            real = torch.zeros((len(batch), width - 1), dtype=torch.bool)
            for row, i in enumerate(batch):
                ids[row, : len(sequences[i])] = torch.as_tensor(np.asarray(sequences[i], dtype=np.int64))
                real[row, : len(sequences[i]) - 1] = True
            with torch.inference_mode():
                # Padding stands on the right: a causal model never sees it from a real position.
                hidden = self.model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
                losses = self._loss(hidden[real], ids[:, 1:][real])
            for i, part in zip(batch, np.split(losses, np.cumsum(real.sum(1).numpy())[:-1]), strict=True):
                results[i] = part
        return results

    def loss_of_answers(
        self, prefixes: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]
    ) -> list[list[np.ndarray]]:
        """See AnswerScorer. A prefix is read once, whatever the number of its answers."""
        longest = max((len(p) + len(a) - 1 for p, many in zip(prefixes, answers, strict=True) for a in many), default=0)
        self._refuse_too_long(longest)
        if not all(len(prefix) for prefix in prefixes) or not all(len(a) for many in answers for a in many):
            raise BuildError("an answer needs at least one token, before it and in it")
        groups: dict[tuple[int, int], list[int]] = {}
        for i, prefix in enumerate(prefixes):
            groups.setdefault((len(prefix), len(answers[i])), []).append(i)
        results: list[list[np.ndarray]] = [[] for _ in prefixes]
        for (length, _), members in sorted(groups.items()):
            rows = max(1, self.batch_tokens // length)
            for first in range(0, len(members), rows):
                batch = members[first : first + rows]
                scored = self._loss_after([prefixes[i] for i in batch], [answers[i] for i in batch])
                for i, losses in zip(batch, scored, strict=True):
                    results[i] = losses
        return results

    def _loss_after(self, prefixes: Sequence[Tokens], answers: Sequence[Sequence[Tokens]]) -> list[list[np.ndarray]]:
        """One batch of `loss_of_answers`: prefixes of one length, the same number of answers each."""
        import torch

        flat = [answer for many in answers for answer in many]
        width = max(len(answer) for answer in flat)
        targets = torch.zeros((len(flat), width), dtype=torch.long)
        for row, answer in enumerate(flat):
            targets[row, : len(answer)] = torch.as_tensor(np.asarray(answer, dtype=np.int64))
        real = torch.arange(width)[None, :] < torch.tensor([len(answer) for answer in flat])[:, None]
        with torch.inference_mode():
            read = self.model.model(input_ids=torch.as_tensor(np.asarray(prefixes, dtype=np.int64)), use_cache=True)
            per_prefix = len(answers[0])
            hidden = read.last_hidden_state[:, -1:].repeat_interleave(per_prefix, dim=0)
            if width > 1:
                read.past_key_values.batch_repeat_interleave(per_prefix)
                more = self.model.model(input_ids=targets[:, :-1], past_key_values=read.past_key_values, use_cache=True)
                hidden = torch.cat([hidden, more.last_hidden_state], dim=1)
            losses = self._loss(hidden[real], targets[real])
        parts = iter(np.split(losses, np.cumsum([len(answer) for answer in flat])[:-1]))
        return [[next(parts) for _ in many] for many in answers]

    def _loss(self, hidden: Any, targets: Any) -> np.ndarray:
        import torch

        parts = [
            torch.nn.functional.cross_entropy(
                self.model.lm_head(hidden[first : first + LOGIT_ROWS]),
                targets[first : first + LOGIT_ROWS],
                reduction="none",
            )
            for first in range(0, len(targets), LOGIT_ROWS)
        ]
        losses = torch.cat(parts).double().numpy() if parts else np.zeros(0)
        if not np.isfinite(losses).all():
            raise BuildError("the model gives a loss that is not finite: its weights are broken, no score was written")
        return losses

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in groups of similar length, each at most `batch_tokens` with padding; nothing to predict = none."""
        batch: list[int] = []
        for i in sorted((i for i, length in enumerate(lengths) if length > 0), key=lambda i: (lengths[i], i)):
            if batch and (len(batch) + 1) * lengths[i] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _refuse_too_long(self, length: int) -> None:
        if length > self.max_tokens:
            raise BuildError(f"a context of {length} tokens is longer than the model's {self.max_tokens} positions")
