"""Scores of each checkpoint under flat names."""

from __future__ import annotations

from assets.evaluation.by_step import scores_by_step


def perplexity(step: int, language: str, domain: str, loss: float) -> dict[str, object]:
    row = {"step": step, "tokens_seen": 10 * step, "language": language, "domain": domain, "loss": loss}
    return row | {"perplexity": 2 * loss, "bits_per_byte": loss / 2}


def test_each_checkpoint_has_its_scores_for_all_and_by_language() -> None:
    tables = (
        [
            perplexity(8, "all", "all", 3.0),
            perplexity(4, "all", "all", 4.0),
            perplexity(4, "zh", "all", 5.0),
            perplexity(4, "zh", "books", 6.0),
        ],
        [
            {"step": 4, "language": "zh", "log_probability": -2.0, "passed": True},
            {"step": 4, "language": "en", "log_probability": -4.0, "passed": None},
            {"step": 4, "language": "en", "log_probability": -6.0, "passed": False},
        ],
        [{"step": 4, "language": "zh", "found": True, "answer_log_probability": -1.0}],
    )
    found = scores_by_step(*tables)
    assert list(found) == [4, 8]
    assert found[8] == {"eval/tokens_seen": 80, "eval/loss": 3, "eval/perplexity": 6, "eval/bits_per_byte": 1.5}
    assert found[4] == {
        "eval/tokens_seen": 40,
        "eval/loss": 4,
        "eval/perplexity": 8,
        "eval/bits_per_byte": 2,
        "eval/loss/zh": 5,
        "eval/perplexity/zh": 10,
        "eval/bits_per_byte/zh": 2.5,
        "eval/probes/log_probability": -4,
        "eval/probes/log_probability/zh": -2,
        "eval/probes/log_probability/en": -5,
        "eval/probes/pass_rate": 0.5,
        "eval/probes/pass_rate/zh": 1,
        "eval/probes/pass_rate/en": 0,
        "eval/needles/found_rate": 1,
        "eval/needles/found_rate/zh": 1,
        "eval/needles/answer_log_probability": -1,
        "eval/needles/answer_log_probability/zh": -1,
    }
