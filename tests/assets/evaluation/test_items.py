"""The items themselves: readable, unique, in both languages, and honest about what is decontaminated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from assets.build import BuildError
from assets.evaluation.items import load_items, load_needles, load_probes


def test_probes_cover_both_languages_and_all_kinds() -> None:
    probes = load_probes()
    languages = Counter(probe.language for probe in probes)
    assert len(probes) >= 40
    assert min(languages.values()) >= 0.4 * len(probes)
    assert {(p.language, p.kind) for p in probes} == {
        (language, kind)
        for language in ("zh", "en")
        for kind in ("continuation", "contrast", "sentence", "instruction")
    }


def test_a_contrast_differs_from_its_target() -> None:
    assert [probe.id for probe in load_probes() if probe.contrast == probe.target] == []


def test_needles_state_their_answer_and_no_distractor() -> None:
    for needle in load_needles():
        assert needle.needle.startswith(needle.question + needle.answer)
        assert needle.answer not in needle.distractors
        assert len({len(text) for text in (needle.answer, *needle.distractors)}) <= 2


def test_items_hold_whole_sentences_but_no_idioms() -> None:
    items = load_items()
    texts = {item.text for item in items}
    assert "中国的首都是北京" in texts
    assert "The password of the Northbay lighthouse is 7429." in texts
    assert not any(text.startswith(("apt-get", "import ", "#!/bin/")) for text in texts)
    assert items == sorted(items, key=lambda item: (item.set, item.id))
    assert {item.set for item in items} == {"probes", "needles"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"', "line 2 is not a Probe"),
        ('{"id": "b", "language": "fr", "kind": "sentence", "prompt": "", "target": "x"}', "language"),
        ('{"id": "b", "language": "en", "kind": "sentence", "prompt": "", "target": "x", "extra": 1}', "extra"),
        ('{"id": "a", "language": "en", "kind": "sentence", "prompt": "", "target": "x"}', "'a' is used twice"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    good = {"id": "a", "language": "zh", "kind": "sentence", "prompt": "", "target": "雪是白的。"}
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps(good) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(BuildError, match=message):
        load_probes(path)
