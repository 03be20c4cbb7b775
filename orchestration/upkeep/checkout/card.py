"""README.md of a checked-out checkpoint: what it is, what must be known of it, how to load it, and the release card."""

from __future__ import annotations

from collections.abc import Sequence

from orchestration.upkeep.checkout.choosing import Chosen

END_OF_TEXT = "<|endoftext|>"

USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

In training every document stood behind the `{end}` of the one before. The tokenizer adds nothing by itself, so what is to be
read as the beginning of a document starts with that id:

```python
import torch

start = torch.tensor([[tokenizer.eos_token_id]])
prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
text = model.generate(torch.cat([start, prompt], dim=1), max_new_tokens=50)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```"""


def model_card(
    chosen: Chosen, folder: str, notes: Sequence[str], languages: Sequence[str], tokenizer_version: str, card: str
) -> str:
    """The page, with the front matter that model hubs read. No licence is in it: that of the weights is the owner's to
    decide, and those of the texts stand in the card."""
    return (
        "\n\n".join(
            (
                _front_matter(languages),
                f"# {chosen.run}, step {chosen.step:,}",
                *(f"> **Note.** {note}" for note in notes),
                "## Use",
                USE.format(folder=folder, end=END_OF_TEXT),
                "## This folder",
                _facts(chosen, tokenizer_version),
                *([_body(chosen, card)] if card else []),
            )
        ).rstrip("\n")
        + "\n"
    )


def _front_matter(languages: Sequence[str]) -> str:
    named = ["language:", *(f"- {language}" for language in languages)] if languages else []
    lines = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *named,
        "tags:",
        "- headwater",
        "- base-model",
    ]
    return "\n".join(("---", *lines, "---"))


def _facts(chosen: Chosen, tokenizer_version: str) -> str:
    rows = {
        "run": chosen.run,
        "step": f"{chosen.step:,} of {chosen.steps[-1]:,}",
        "tokens read": f"{chosen.row['tokens_seen']:,}",
        "parameters": f"{chosen.row['parameters']:,}",
        "SHA-256 of model.safetensors": f"`{chosen.row['weights_sha256']}`",
        "data version of base_checkpoints": f"`{chosen.manifest['version']}`",
        "data version of tokenizer": f"`{tokenizer_version}`",
        "made again by": f"`headwater checkout {chosen.run}/{chosen.step} FOLDER`",
    }
    return "\n".join(("|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())))


def _body(chosen: Chosen, card: str) -> str:
    """The release card below its title; its scores are those of the run, so an earlier step says where its own are."""
    _, _, body = card.partition("\n\n")
    if chosen.step == chosen.steps[-1]:
        return body
    return (
        f"What follows is the release card of the whole run: its model and its tables of the last checkpoint are of step "
        f"{chosen.steps[-1]:,}. Where a table has a row for each checkpoint, that of step {chosen.step:,} is this one.\n\n{body}"
    )
