"""Measures a tokenizer on documents it was not fitted on, and shows how it cuts what is easy to get wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from assets.tokenizer.encoding import END_OF_TEXT, PAD, encode_documents, reserved_token, token_dtype
from assets.tokenizer.training import token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ALL = "all"
_HANZI = re.compile(r"[㐀-䶿一-鿿\U00020000-\U0003134F]")
_HANZI_RUN = re.compile(_HANZI.pattern + "+")
_WORD = re.compile(r"[A-Za-z]+")
_BATCH_DOCUMENTS = 256

EXAMPLES: tuple[str, ...] = (
    "9.11",
    "9.11 > 9.8 ?",
    "1949年10月1日",
    "中华人民共和国",
    "自然语言处理，人工智能。",
    "繁體中文與简体中文",
    "The quick brown fox doesn't jump.",
    "internationalization",
    "def f(x):\n    if x:\n        return x + 1\n",
    "\tfor (int i = 0; i < 10; i++) {\n",
    "https://example.org/a?b=1",
    "你好，world！👩‍👩‍👧 🇨🇳",
    "text <|endoftext|> text",
)


class TokenizerReportRecipe(BaseModel):
    """Recipe table [tokenizer_report]."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    longest_tokens: int = Field(30, ge=1, description="how many of the longest tokens to show")
    examples: tuple[str, ...] = Field((), description="texts to cut, shown beside the built-in ones")


@dataclass
class ChannelMeasure:
    """Sums over the audit documents of one channel."""

    documents: int = 0
    characters: int = 0
    utf8_bytes: int = 0
    hanzi: int = 0
    hanzi_tokens: int = 0
    words: int = 0
    word_tokens: int = 0
    tokens: int = 0
    round_trip_failures: int = 0
    end_rule_failures: int = 0
    used: Counter[int] = field(default_factory=Counter)

    def row(self, channel: str, vocabulary_size: int) -> dict[str, Any]:
        """The row of tokenizer_report/report.parquet."""
        tokens = max(self.tokens, 1)
        return {
            "channel": channel,
            "documents": self.documents,
            "characters": self.characters,
            "utf8_bytes": self.utf8_bytes,
            "tokens": self.tokens,
            "characters_per_token": self.characters / tokens,
            "bytes_per_token": self.utf8_bytes / tokens,
            "hanzi_per_token": self.hanzi / self.hanzi_tokens if self.hanzi_tokens else None,
            "tokens_per_word": self.word_tokens / self.words if self.words else None,
            "round_trip_failures": self.round_trip_failures,
            "end_rule_failures": self.end_rule_failures,
            "unused_tokens": vocabulary_size - len(self.used),
        }


def measure(
    tokenizer: Tokenizer, documents: Iterable[tuple[str, str, str]]
) -> tuple[dict[str, ChannelMeasure], list[str]]:
    """(channel -> sums, ids of documents that did not survive encode and decode) for (doc_id, channel, text) rows."""
    measures: dict[str, ChannelMeasure] = {ALL: ChannelMeasure()}
    failed: list[str] = []
    batch: list[tuple[str, str, str]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_DOCUMENTS:
            _measure_batch(tokenizer, batch, measures, failed)
            batch = []
    _measure_batch(tokenizer, batch, measures, failed)
    return measures, failed


def _measure_batch(
    tokenizer: Tokenizer,
    batch: list[tuple[str, str, str]],
    measures: dict[str, ChannelMeasure],
    failed: list[str],
) -> None:
    end = tokenizer.token_to_id(END_OF_TEXT)
    arrays = encode_documents(tokenizer, [text for _, _, text in batch], token_dtype(tokenizer.get_vocab_size()))
    decoded = tokenizer.decode_batch([ids[:-1].tolist() for ids in arrays], skip_special_tokens=False)
    for (doc_id, channel, text), ids, back in zip(batch, arrays, decoded, strict=True):
        words, hanzi = _WORD.findall(text), _HANZI_RUN.findall(text)
        # Encoded with the space before them, as words stand in running text.
        word_tokens = _count(tokenizer, [f" {word}" for word in words])
        hanzi_tokens = _count(tokenizer, hanzi)  # runs of hanzi are cut off before merging: counted alone is exact
        if back != text:
            failed.append(doc_id)
        for target in (measures.setdefault(channel, ChannelMeasure()), measures[ALL]):
            target.documents += 1
            target.characters += len(text)
            target.utf8_bytes += len(text.encode())
            target.hanzi += sum(map(len, hanzi))
            target.hanzi_tokens += hanzi_tokens
            target.words += len(words)
            target.word_tokens += word_tokens
            target.tokens += len(ids) - 1
            target.round_trip_failures += back != text
            target.end_rule_failures += ids.tolist().count(end) != 1 or int(ids[-1]) != end
            target.used.update(ids.tolist())


def _count(tokenizer: Tokenizer, texts: list[str]) -> int:
    return sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))


@dataclass(frozen=True)
class VocabularyFindings:
    """What reading the vocabulary itself shows."""

    merged_digit_tokens: list[str]
    incomplete_character_tokens: int
    longest: list[tuple[int, int, str]]
    """(id, bytes, text)."""


def inspect_vocabulary(tokenizer: Tokenizer, longest: int) -> VocabularyFindings:
    """Tokens that hold a digit and anything else, tokens that are parts of characters, and the longest ones."""
    merged, incomplete, sizes = [], 0, []
    special = {entry.content for entry in tokenizer.get_added_tokens_decoder().values()}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token in special:
            continue
        content = token_bytes(token)
        text = content.decode(errors="replace")
        if len(text) > 1 and any(character.isnumeric() and not _HANZI.match(character) for character in text):
            merged.append(text)
        incomplete += "\ufffd" in text and len(content) > 1
        sizes.append((number, len(content), text))
    sizes.sort(key=lambda row: (-row[1], row[0]))
    return VocabularyFindings(merged, incomplete, sizes[:longest])


def specials_parsed_from_text(tokenizer: Tokenizer) -> int:
    """Special tokens that come out of text which merely spells them; 0 is right."""
    spelt = [END_OF_TEXT, PAD, reserved_token(0), f"a{END_OF_TEXT}b", f"{PAD} {END_OF_TEXT}"]
    special = set(tokenizer.get_added_tokens_decoder())
    return sum(len(special.intersection(tokenizer.encode(text, add_special_tokens=False).ids)) for text in spelt)


def tokens_added_around_text(tokenizer: Tokenizer) -> int:
    """Tokens that encoding adds by itself (BOS, EOS); 0 is right: the shards add the one end token explicitly."""
    with_rules = tokenizer.encode("text", add_special_tokens=True).ids
    return len(with_rules) - len(tokenizer.encode("text", add_special_tokens=False).ids)


def cut(tokenizer: Tokenizer, text: str) -> str:
    """The text with a bar between tokens; parts of characters are shown as hexadecimal bytes."""
    pieces = []
    for token in tokenizer.encode(text, add_special_tokens=False).tokens:
        content = token_bytes(token)
        try:
            pieces.append(content.decode())
        except UnicodeDecodeError:
            pieces.append(f"<{content.hex()}>")
    return "|".join(pieces).replace("\n", "⏎").replace("\t", "⇥")


def summary(table: list[dict[str, Any]], findings: VocabularyFindings, tokenizer: Tokenizer) -> dict[str, Any]:
    """The statistics that checks see."""
    total = next(row for row in table if row["channel"] == ALL)
    return {
        "audit_documents": total["documents"],
        "vocabulary_size": tokenizer.get_vocab_size(),
        "bytes_per_token": {row["channel"]: round(row["bytes_per_token"], 3) for row in table},
        "hanzi_per_token": _measured(table, "hanzi_per_token"),
        "tokens_per_word": _measured(table, "tokens_per_word"),
        "round_trip_failures": total["round_trip_failures"],
        "end_rule_failures": total["end_rule_failures"],
        "unused_token_share": round(total["unused_tokens"] / tokenizer.get_vocab_size(), 4),
        "merged_digit_tokens": len(findings.merged_digit_tokens),
        "incomplete_character_tokens": findings.incomplete_character_tokens,
        "specials_parsed_from_text": specials_parsed_from_text(tokenizer),
        "tokens_added_around_text": tokens_added_around_text(tokenizer),
    }


def _measured(table: list[dict[str, Any]], column: str) -> dict[str, float]:
    return {row["channel"]: round(row[column], 3) for row in table if row[column] is not None}
