"""Handmade documents in which exactly one rule fires; what language and script they are taken for."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from assets.documents.heuristics import (
    ChineseThresholds,
    CodeThresholds,
    LanguageChoice,
    ProseThresholds,
    Rule,
    code_rules,
    first_failure,
    length_rules,
    quality_rules,
    quality_score,
    repetition_rules,
    uncertain_language,
    unwanted_language,
    unwanted_script,
)
from assets.documents.language import identify
from assets.documents.recipe import REASONS, Filters
from assets.documents.signals import STOP_WORDS_ZH, measure
from tests.assets.documents.crawls import CHINESE, CODE, ENGLISH, FRENCH, TRADITIONAL

CHOICE = LanguageChoice(keep_languages=("zh", "en"), keep_scripts=("Hans", "Latn"), language_score_min=0.5)


def rules_of(language: str) -> tuple[Rule, ...]:
    if language == "code":
        return length_rules(CodeThresholds()) + code_rules(CodeThresholds())
    limits = ChineseThresholds() if language == "zh" else ProseThresholds()
    return length_rules(limits) + repetition_rules(limits) + quality_rules(limits)


def broken_reasons(text: str, language: str) -> list[str]:
    """Every reason for which a rule breaks, not only the first."""
    signals = measure(text, language)
    return list(dict.fromkeys(f.reason for rule in rules_of(language) if (f := first_failure(signals, [rule]))))


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (CHINESE, "zh"), (TRADITIONAL, "zh"), (CODE, "code")])
def test_good_documents_break_no_rule(text: str, language: str) -> None:
    assert broken_reasons(text, language) == []


WORDS = ENGLISH.replace(".", "").replace(",", "").split()
SENTENCES = [sentence.strip(". ") + "." for sentence in ENGLISH.split(". ")]
HANZI = sorted(set(CHINESE) - set("，。"))
NAMES = [a + b + c for a in ("kalo", "miru", "tesa", "vono") for b in ("dari", "lumo", "pike") for c in "nrstl"]
PAIRS = [a + b for a in NAMES[:15] for b in NAMES[15:29]]
SYLLABLES = [c + v + d + w for c in "kmtv" for v in "aeio" for d in "lprs" for w in "aeio"]
SHORT = [
    "Nothing is new.",
    "Read the manual first.",
    "Ask a friend.",
    "Try it again later.",
    "Write down what happened.",
]
BRIEF = ["这里没有新东西。", "先看一下手册。", "问问你的朋友。", "过一会儿再试。", "写下发生了什么。"]


def lines(*parts: str) -> str:
    return "\n".join(parts)


ONE_RULE: list[tuple[str, str, str]] = [
    (
        "too_short",
        "en",
        "When snow falls over quiet hills, people wear warm coats, drink black tea, read long books, and feel that winter is good.",
    ),
    ("too_short", "zh", "没有得到允许，任何东西都不会被删除，而且每一次改动都可以用另一条命令撤销。"),
    # the second time in another order, or the five lines would also be one repeated passage
    ("too_many_duplicate_lines", "en", lines(*SENTENCES, *SHORT, *reversed(SHORT))),
    ("too_many_duplicate_lines", "zh", lines(*CHINESE.split("。")[:4], *BRIEF, *reversed(BRIEF))),
    ("repeated_phrase", "en", ENGLISH + " " + " ".join(f"{name} open source software" for name in NAMES[:15]) + "."),
    ("repeated_phrase", "zh", CHINESE + "".join(f"{hanzi}，开源软件" for hanzi in HANZI[:20]) + "。"),
    ("repeated_passages", "en", ENGLISH + " " + " ".join(SENTENCES[1:3])),
    ("too_few_hanzi", "zh", CHINESE + " ".join(SYLLABLES) + "。"),
    ("too_many_digits", "en", ENGLISH + " " + " ".join(f"version{n}" for n in range(10**7, 10**7 + 40)) + "."),
    ("too_many_symbols", "en", "# ".join(ENGLISH.split(" ", 12)) + "."),
    ("too_few_words_with_letters", "en", ENGLISH + " " + " ".join(str(n) for n in range(10, 55)) + "."),
    ("words_too_short", "en", " ".join(a + b for a in "abcdefghijklm" for b in "aeiouybdt") + " to be of it."),
    ("words_too_long", "en", "the " + " ".join(PAIRS[:60]) + " and that."),
    ("too_few_stop_words", "en", " ".join(NAMES) + "."),
    ("too_few_stop_words", "zh", "".join(c for c in CHINESE if c not in STOP_WORDS_ZH)),
    ("too_many_bullet_lines", "en", lines(*(f"- {sentence}" for sentence in SENTENCES))),
    ("too_many_ellipsis_lines", "en", lines(*(sentence + ".." for sentence in SENTENCES))),
    ("too_few_sentence_ends", "en", lines(*(sentence.strip(".") for sentence in SENTENCES))),
    ("too_few_sentence_ends", "zh", lines(*CHINESE.rstrip("。").split("。"))),
    ("too_many_short_lines", "en", lines(*(f"{a} {b}." for a, b in zip(WORDS[::2], WORDS[1::2], strict=False)))),
    (
        "too_little_variety",
        "zh",
        "".join(f"{a}{b}的{c}是" for a in HANZI[:4] for b in HANZI[4:7] for c in HANZI[7:11]) + "。",
    ),
    ("code_lines_too_long", "code", CODE + "names = [" + ", ".join(f"'{name}'" for name in NAMES) * 3 + "]\n"),
    ("code_with_embedded_data", "code", CODE * 2 + "DATA = '" + base64.b64encode(CODE.encode())[:560].decode() + "'\n"),
    ("code_mostly_symbols", "code", "".join(f"{{({c}[+-*&%$=<>!?;:~^|])}}\n" for c in "abcdefghijkl")),
    ("too_many_digits", "code", "".join(f"t{n}={n * 7919 % 100003:06d}\n" for n in range(99))),
    ("too_many_duplicate_lines", "code", CODE + "        self.total += 1\n" * 60),
    ("too_long", "code", "".join(f"{a} = {b}.{a}()\n" for a in SYLLABLES for b in SYLLABLES)),
]


@pytest.mark.parametrize(("reason", "language", "text"), ONE_RULE, ids=[f"{r}-{l}" for r, l, _ in ONE_RULE])  # noqa: E741
def test_exactly_one_rule_fires(reason: str, language: str, text: str) -> None:
    assert broken_reasons(text, language) == [reason]


def test_a_rule_without_a_limit_drops_where_the_recipe_sets_one() -> None:
    few = ENGLISH + " " + " ".join(reversed(ENGLISH.split())) + "."
    assert broken_reasons(few, "en") == []
    strict = quality_rules(ProseThresholds(min_unique_word_ratio=0.5))
    failure = first_failure(measure(few, "en"), strict)
    assert failure is not None and failure.reason == "too_few_distinct_words"
    assert first_failure(measure(ENGLISH, "en"), strict) is None


OF_LANGUAGE = ("language_not_wanted", "language_uncertain", "script_not_wanted")
"""Examples: test_the_language_rules."""


def test_every_drop_reason_has_an_example_and_every_example_a_reason() -> None:
    assert {reason for reason, _, _ in ONE_RULE} | {"too_few_distinct_words", *OF_LANGUAGE} == set(REASONS)
    assert len(set(REASONS)) == len(REASONS)


def test_a_failure_says_signal_value_and_limit() -> None:
    failure = first_failure({"characters": 12.0}, length_rules(ProseThresholds()))
    assert failure is not None
    assert (failure.reason, failure.words) == ("too_short", "characters 12 < 200")


@pytest.mark.parametrize(
    ("text", "document_format", "language", "script"),
    [
        (ENGLISH, "html", "en", "Latn"),
        (CHINESE, "html", "zh", "Hans"),
        (TRADITIONAL, "html", "zh", "Hant"),
        (FRENCH, "text", "fr", "Latn"),
        ("ソフトウェアの管理者は、毎日の作業を始める前に、一覧を読みます。" * 5, "html", "ja", "Jpan"),
        ("Менеджер пакетов следит за тем, чтобы система работала, и спрашивает администратора.", "html", "ru", "Cyrl"),
        (CODE, "code", "code", None),
        (ENGLISH.upper(), "html", "en", "Latn"),
    ],
)
def test_language_and_script(text: str, document_format: str, language: str, script: str | None) -> None:
    found = identify(text, document_format)
    assert (found.code, found.script) == (language, script)
    assert found.score > 0.5


def test_commands_do_not_outvote_a_chinese_page() -> None:
    commands = "\n".join(f"$ sudo apt install package-{n} --reinstall" for n in range(8))
    assert identify(f"{CHINESE}\n{commands}\n{CHINESE}", "html").code == "zh"


def test_a_page_in_two_languages_is_certain_of_neither() -> None:
    mixed = identify(f"{CHINESE}\n{ENGLISH}", "html")
    assert mixed.score < 0.75
    assert identify(CHINESE, "html").score > 0.9


def test_the_language_rules() -> None:
    wanted = ("zh", 0.9, CHOICE)
    assert unwanted_language(*wanted) is None
    assert uncertain_language(*wanted) is None
    french = unwanted_language("fr", 0.9, CHOICE)
    assert french is not None and french.reason == OF_LANGUAGE[0]
    assert unwanted_language("fr", 0.3, CHOICE) is None  # not certain enough to be called French
    unsure = uncertain_language("fr", 0.3, CHOICE)
    assert unsure is not None and unsure.reason == OF_LANGUAGE[1]
    hant = unwanted_script("Hant", CHOICE)
    assert hant is not None and hant.reason == OF_LANGUAGE[2]
    assert unwanted_script(None, CHOICE) is None


def test_empty_and_odd_texts_can_be_measured() -> None:
    for text in ("", "\n\n", "。", "🙂" * 50, "1 2 3", "\ufffd"):
        for language in ("zh", "en", "code", "unknown"):
            signals = measure(text, language)
            assert all(value >= 0 for value in signals.values())
            assert 0 <= quality_score(signals, language, 0.0) <= 1
        assert identify(text, "html").score <= 1


def test_quality_prefers_prose_to_fragments() -> None:
    def quality(text: str, language: str) -> float:
        return quality_score(measure(text, language), language, 1.0)

    assert quality(CHINESE, "zh") > quality("软件包。" * 20, "zh")
    assert quality(ENGLISH, "en") > quality("\n".join(WORDS), "en")
    assert quality(CODE, "code") > quality("x = 1\n" * 50, "code")


@pytest.mark.parametrize("table", [{"keep_language": ["zh"]}, {"zh": {"min_words": 3}}, {"keep_languages": []}])
def test_unknown_or_empty_keys_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(table))):
        Filters.model_validate(table)


def test_a_partial_table_keeps_the_defaults_of_its_language() -> None:
    filters = Filters.model_validate({"zh": {"min_characters": 60}, "en": {"min_characters": 60}})
    assert (filters.zh.min_characters, filters.zh.max_mean_word_length) == (60, 5.0)
    assert (filters.en.min_characters, filters.en.max_mean_word_length) == (60, 10.0)
