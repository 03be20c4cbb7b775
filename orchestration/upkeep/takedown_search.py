"""What else holds a text that was taken down: a search through main, the other branches and tags, and the home.

What it finds remains; what it does not find is not thereby gone, and it says what it could not look into.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from assets.tokenizer.encoding import load_tokenizer, token_dtype
from orchestration.identity.catalog import way_out
from orchestration.identity.digest import HIDDEN
from orchestration.stages import BY_NAME
from orchestration.store.contract import MAIN, ObjectInfo, StoreError, VersionedStore
from orchestration.upkeep.takedown_text import SENTENCE_CHARACTERS, UnreadableError, documents, normal, sentences, texts
from orchestration.upkeep.taken_down import asset_and_partition

MOST_SENTENCES = 240
"""Each is looked for in every text; objects with more documents than that need --text."""
TOKENIZER, SHARDS, SHARD_TOKENS = "tokenizer/tokenizer/tokenizer.json", "tokenizer/token_shards/", 1 << 20
NEVER_SEARCHED = (
    "older commits (`headwater gc` deletes the contents that only they hold, in time)",
    "clones, backups and exports outside the home",
    "a history of Dagster's that is not in the home, such as PostgreSQL",
    "models: what was trained on a text may repeat it",
)


@dataclass(frozen=True)
class Found:
    """One file that holds some of the sentences."""

    place: str
    """A branch or tag of the store, or `home`."""
    path: str
    asset: str
    partition: str | None
    sentences: int
    remedy: str


@dataclass
class Search:
    """What was looked for, where, and what was found."""

    sentences: int = 0
    documents: int = 0
    documents_covered: int = 0
    """Fewer than `documents` where there were too many of them, or they have no sentence of their own."""
    files: int = 0
    found: list[Found] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Files that were met and hold no text that can be read."""
    never_searched: tuple[str, ...] = NEVER_SEARCHED


def sentences_of(
    store: VersionedStore, objects: Sequence[tuple[str, str]], given: Sequence[str]
) -> tuple[set[str], Search]:
    """Sentences that tell the documents of some objects (ref, path) from others; those `given`, if any are.

    A sentence that several documents of one object have, such as a menu, tells nothing.
    """
    search = Search()
    if given:
        wanted = {normal(text)[:SENTENCE_CHARACTERS] for text in given} - {""}
        search.sentences = len(wanted)
        return wanted, search
    by_document: dict[tuple[str, ...], None] = {}
    for ref, path in objects:
        try:
            found = [sentences(text) for text in documents(store.local_path(ref, path), path)]
        except (StoreError, UnreadableError, OSError):
            continue  # gone already, or not text: told by `documents`
        shared = Counter(each for one in found for each in set(one))
        own = [tuple(each for each in one if shared[each] == 1) for one in found]
        by_document |= dict.fromkeys(each for each in own if each)
        search.documents += len(found)
    chosen: set[str] = set()
    for one in _spread(list(by_document)):
        chosen.update(one)
        search.documents_covered += 1
    search.sentences = len(chosen)
    return chosen, search


def _spread(found: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """All of them, or as many as may be looked for, from everywhere."""
    step = max(1, -(-sum(map(len, found)) // MOST_SENTENCES))
    yield from found[::step]


def look_everywhere(
    store: VersionedStore, places: Iterable[Path], home: Path, wanted: set[str], search: Search
) -> None:
    """Search every object that a branch or tag names, and every file below some folders."""
    if not wanted:
        return
    seen = set(store.takedowns())
    refs = [MAIN, *sorted(set(store.branches()) - {MAIN}), *sorted(store.tags())]
    for ref in refs:
        for info in store.list(ref):
            if info.sha256 not in seen:
                seen.add(info.sha256)
                _look_into(store, ref, info, wanted, search)
    for path in _files(places, Path(getattr(store, "folder", home / "store.git"))):
        name = path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
        count = _count(lambda path=path, name=name: texts(path, name), wanted, name, search)
        if count:
            search.found.append(Found("home", name, "", None, count, _home_remedy(name)))


def _look_into(store: VersionedStore, ref: str, info: ObjectInfo, wanted: set[str], search: Search) -> None:
    def read() -> Iterator[str]:
        path = store.local_path(ref, info.path)
        if info.path.startswith(SHARDS) and info.path.endswith(".bin"):
            yield from _of_tokens(path, store.local_path(ref, TOKENIZER))
        else:
            yield from texts(path, info.path)

    count = _count(read, wanted, f"{ref}:{info.path}", search)
    if count:
        asset, partition = asset_and_partition(info.path)
        remedy = _remedy(ref, info.path, asset, partition)
        search.found.append(Found(ref, info.path, asset, partition, count, remedy))


def _count(read, wanted: set[str], name: str, search: Search) -> int:  # type: ignore[no-untyped-def]
    """How many of the sentences a file holds."""
    missing = set(wanted)
    try:
        for text in read():
            plain = normal(text)
            missing -= {sentence for sentence in missing if sentence in plain}
            if not missing:
                break
    except (StoreError, UnreadableError, OSError):
        search.unreadable.append(name)
    search.files += 1
    return len(wanted) - len(missing)


def _of_tokens(shard: Path, tokenizer_file: Path) -> Iterator[str]:
    """What the tokens of a shard spell."""
    import numpy as np

    tokenizer = load_tokenizer(tokenizer_file)
    dtype = token_dtype(tokenizer.get_vocab_size())
    tokens = np.memmap(shard, dtype=dtype, mode="r") if shard.stat().st_size else np.empty(0, dtype)
    for start in range(0, len(tokens), SHARD_TOKENS):
        piece = tokens[max(0, start - SENTENCE_CHARACTERS * 4) : start + SHARD_TOKENS]
        yield tokenizer.decode(piece.tolist(), skip_special_tokens=False)


def _files(places: Iterable[Path], store: Path) -> Iterator[Path]:
    """Every file of some folders but those of the store, each once."""
    seen: set[Path] = set()
    for place in places:
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(each for each in folders if Path(folder, each).resolve() != store.resolve())
            for path in (Path(folder, name) for name in sorted(names)):
                if path not in seen and path.is_file() and not path.is_symlink():
                    seen.add(path)
                    yield path


def _remedy(ref: str, path: str, asset: str, partition: str | None) -> str:
    if ref != MAIN:
        return "a branch is deleted when its build succeeds or is abandoned; a run's tag keeps what it was planned on"
    if path.rpartition("/")[2] in HIDDEN and asset in BY_NAME:
        return f"a sample of its report quotes the text. {way_out(asset, partition)}"
    return way_out(asset, partition)


def _home_remedy(name: str) -> str:
    remedies: Mapping[str, str] = {
        "scratch": "left by a build that did not end well: delete the folder while nothing runs",
        "dagster": "the history of runs quotes samples: `headwater gc --keep-history-days 0` deletes the logs of ended runs",
    }
    return remedies.get(name.partition("/")[0], "delete the file if it must not hold the text")
