"""card.md: the facts of a release card as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SECTIONS: tuple[str, ...] = (
    "Model",
    "Data",
    "Plan",
    "Training",
    "Checkpoints",
    "Scores",
    "Incidents",
    "What this model is not",
    "Versions",
)

TITLES = {"needle_in_haystack": "Needle in a haystack"}
"""Of evaluations whose name alone would read badly."""

LIMITATIONS: tuple[str, ...] = (
    "It is a base model: it continues text. It was not taught to follow instructions or to hold a conversation, and has no safety training.",
    "It states what is probable after its training text, not what is true. Do not use its output as information without checking it.",
    "It knows the domains and languages of the table above and little else; elsewhere it fails without saying so.",
    "Probes and needles are few and our own: their trend over training means something, a single answer does not.",
    "Held-out documents come from the same sources as the training documents: the loss says nothing about other sources.",
    "Its training text was filtered by rules that make mistakes. It can repeat errors, bias and personal data that passed them.",
)


def as_markdown(facts: Mapping[str, Any]) -> str:
    """The whole page."""
    bodies = (
        _facts(facts["model"]),
        _data(facts["data"]),
        _facts(facts["plan"]),
        _training(facts["training"]),
        _table(("step", "tokens_seen", "train_loss", "learning_rate", "weights_sha256"), facts["checkpoints"]),
        _scores(facts["scores"]),
        _incidents(facts["incidents"]),
        "\n".join(f"- {line}" for line in LIMITATIONS),
        _versions(facts["versions"]),
    )
    sections = (f"## {title}\n\n{body}" for title, body in zip(SECTIONS, bodies, strict=True))
    return "\n\n".join((f"# {facts['run']}", *sections)) + "\n"


def _data(data: Mapping[str, Any]) -> str:
    unlicensed = data["train_documents_without_licence"]
    return "\n\n".join(
        (
            f"{data['train_documents']:,} training documents of {data['corpus_documents']:,} in the corpus and "
            f"{data['documents_ever_extracted']:,} ever extracted. {unlicensed:,} of them state no licence.",
            "Planned tokens = tokens times planned uses.",
            _table(
                ("split", "channel", "language", "domain", "documents", "tokens", "planned_tokens"), data["channels"]
            ),
            "Sources and licences of the training documents:",
            _table(("source", "licence", "documents", "tokens"), data["sources"]),
            "Documents that are not in the corpus, by the stage that dropped them:",
            _table(("stage", "drop_reason", "documents"), data["dropped"]),
        )
    )


def _training(training: Mapping[str, Any]) -> str:
    summary = (
        f"{training['steps']:,} steps, {training['tokens_seen']:,} tokens. Loss {_show(training['first_loss'])} at the "
        f"first step, {_show(training['final_loss'])} at the last, lowest {_show(training['lowest_loss'])} at step "
        f"{training['lowest_loss_step']:,}."
    )
    curve = _table(("step", "tokens_seen", "loss", "gradient_norm", "learning_rate"), training["curve"])
    return f"{summary}\n\n{curve}"


def _scores(scores: Mapping[str, Any]) -> str:
    perplexity = scores["perplexity"]
    columns = ("language", "domain", "documents", "tokens", "loss", "perplexity", "bits_per_byte", "unigram_loss")
    return "\n\n".join(
        (
            "Held-out documents, last checkpoint. The baseline is an add-one unigram model of the training tokens "
            "(`unigram_loss`, on the same tokens).",
            _table(columns, perplexity["final"]),
            "Held-out documents, all languages, every checkpoint:",
            _table(("step", "tokens_seen", "loss", "bits_per_byte"), perplexity["trend"]),
            *(
                part
                for name in scores
                if name != "perplexity"
                for part in (f"### {_title(name)}", _facts(scores[name]))
            ),
        )
    )


def _title(asset: str) -> str:
    return TITLES.get(asset, asset.replace("_", " ").capitalize())


def _incidents(incidents: Sequence[Mapping[str, Any]]) -> str:
    if not incidents:
        return "None: loss and gradient stayed in their expected bands."
    columns = ("step", "kind", "value", "expected", "deviation_sigma", "documents", "first_url")
    return _table(columns, incidents)


def _versions(versions: Mapping[str, Any]) -> str:
    read = [{"asset": asset, "version": version} for asset, version in versions["inputs"].items()]
    planned = [
        {"asset": asset, "partition": partition, "version": version}
        for asset, found in versions["planned_on"].items()
        for partition, version in (found.items() if isinstance(found, Mapping) else [("", found)])
    ]
    return "\n\n".join(
        (
            "Data versions (content digests) that this card reads:",
            _table(("asset", "version"), read),
            "Data versions that the run was planned on, for ever:",
            _table(("asset", "partition", "version"), planned),
        )
    )


def _facts(facts: Mapping[str, Any]) -> str:
    """Name and value, nested values one level deep in one cell."""
    rows = []
    for name, value in facts.items():
        shown = ", ".join(f"{k}: {_show(v)}" for k, v in value.items()) if isinstance(value, Mapping) else value
        rows.append({"": name.replace("_", " "), "value": shown})
    return _table(("", "value"), rows)


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    body = ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    if not body:
        return "None."
    return "\n".join(("| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body))


def _cell(value: Any) -> str:
    # A URL or licence may hold anything; a table cell ends at a bar or a line end.
    return _show(value).replace("|", "\\|").replace("\n", " ")


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
