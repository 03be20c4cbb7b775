"""A published checkpoint as a folder that transformers loads, with the card that goes with it.

config.json and model.safetensors are the checkpoint's own files, and tokenizer.json is the one that the run was planned on,
byte for byte. Each is hashed while it is copied, and the folder gets its name when all of it is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.config import Config
from orchestration.identity.catalog import Catalog, mend_damaged, prefix, read_catalog
from orchestration.stages import BY_NAME
from orchestration.store.contract import VersionedStore
from orchestration.upkeep.checkout.card import model_card
from orchestration.upkeep.checkout.choosing import (
    CARD,
    CHECKPOINTS,
    TOKENIZER,
    CheckoutError,
    Chosen,
    choose,
    notes_on,
    tokenizer_of,
)
from orchestration.upkeep.checkout.folder import Place, copy_file, refuse_full, refuse_occupied, whole_or_absent

WEIGHTS, CONFIG, VOCABULARY, TOKENIZER_CONFIG = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class CheckedOut:
    """What was written."""

    run: str
    step: int
    steps: tuple[int, ...]
    """All that the run has."""
    folder: str
    files: dict[str, int]
    """Name -> bytes."""
    weights_sha256: str
    notes: tuple[str, ...]
    """What a person must know of it; README.md says the same."""


def checkout(
    store: VersionedStore, config: Config, subject: str, folder: Path, *, allow_stale: bool = False
) -> CheckedOut:
    """Write RUN/STEP, or the last step of RUN, into a folder that is not there yet, or empty.

    Raises CheckoutError, and StoreError for what is damaged or taken down; then nothing is there.
    """
    folder = folder.expanduser().resolve()
    refuse_occupied(folder)
    catalog = read_catalog(store)
    chosen = choose(store, catalog, subject)
    notes = notes_on(store, catalog, config, chosen, allow_stale=allow_stale)
    commit, tokenizer = tokenizer_of(store, catalog, chosen)
    of_tokenizer = prefix(BY_NAME[TOKENIZER], None)
    places = {name: (catalog.commit, f"{chosen.folder}hf/{name}") for name in (WEIGHTS, CONFIG)}
    places |= {name: (commit, of_tokenizer + name) for name in (VOCABULARY, TOKENIZER_CONFIG)}
    card = {name: (catalog.commit, prefix(BY_NAME[CARD], chosen.run) + name) for name in ("card.md", "card.json")}
    refuse_full(store, places.values(), folder)
    with whole_or_absent(folder) as unfinished:
        _copy_weights(store, places, unfinished, chosen)
        _say_what_is_asked_besides(unfinished)
        page, languages = _release_card(store, catalog, card, chosen, unfinished)
        readme = model_card(chosen, folder.name, notes, languages, tokenizer["version"], page)
        (unfinished / "README.md").write_text(readme, "utf-8")
        files = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
    return CheckedOut(chosen.run, chosen.step, chosen.steps, str(folder), files, chosen.row["weights_sha256"], notes)


def _copy_weights(store: VersionedStore, places: dict[str, Place], unfinished: Path, chosen: Chosen) -> None:
    digests = {name: copy_file(store, place, unfinished / name) for name, place in places.items()}
    if digests[WEIGHTS] != chosen.row["weights_sha256"]:
        raise CheckoutError(
            f"{chosen.run}/{chosen.step}: {WEIGHTS} has SHA-256 {digests[WEIGHTS]}, checkpoints.parquet says "
            f"{chosen.row['weights_sha256']}: they are not of one build. {mend_damaged([CHECKPOINTS])}"
        )


def _say_what_is_asked_besides(folder: Path) -> None:
    """How long a text may be, and the ids that begin a text from nothing, end one and fill up a batch: what the tokenizer
    and the weights do not know of each other."""
    model, settings = (json.loads((folder / name).read_text("utf-8")) for name in (CONFIG, TOKENIZER_CONFIG))
    vocabulary = json.loads((folder / VOCABULARY).read_text("utf-8"))
    ids = {entry["content"]: entry["id"] for entry in vocabulary["added_tokens"]}
    settings["model_max_length"] = model["max_position_embeddings"]
    generation = {f"{name}_token_id": ids[settings[f"{name}_token"]] for name in ("bos", "eos", "pad")}
    _write_json(folder / TOKENIZER_CONFIG, settings)
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _release_card(
    store: VersionedStore, catalog: Catalog, card: dict[str, Place], chosen: Chosen, unfinished: Path
) -> tuple[str, list[str]]:
    """(card.md, the languages of its channels); nothing where the run has none yet."""
    if catalog.get(CARD, chosen.run) is None:
        return "", []
    read = {}
    for name, place in card.items():
        copy_file(store, place, unfinished / name)
        read[name] = (unfinished / name).read_text("utf-8")
        (unfinished / name).unlink()
    channels = json.loads(read["card.json"])["data"]["channels"]
    return read["card.md"], sorted({row["language"] for row in channels if len(row["language"]) == 2})
