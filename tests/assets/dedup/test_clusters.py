"""Duplicate clusters against brute force: planted pairs, chains, representatives, independence of order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.build import BuildError
from assets.dedup.audit import audit_clusters
from assets.dedup.clustering import arrivals, candidates
from assets.dedup.clustering.state import SegmentWriter, View
from assets.dedup.recipe import DedupRecipe
from assets.dedup.shingling import normalise, shingles
from assets.dedup.signatures import SignatureRecipe, sign
from tests.assets.dedup.from_scratch import Clusters, cluster_documents
from tests.assets.dedup.worlds import chinese, english, replace_words

RECIPE = DedupRecipe()


def cluster(
    texts: dict[str, str],
    quality: dict[str, float] | None = None,
    crawled_at: dict[str, str] | None = None,
    recipe: DedupRecipe = RECIPE,
    order: list[str] | None = None,
) -> Clusters:
    """Cluster texts by doc_id; `order` is the order of the rows that come in."""
    order = order or list(texts)
    signed = sign(texts.items(), SignatureRecipe())
    rows = [
        {
            "doc_id": doc_id,
            "quality": (quality or {}).get(doc_id, 0.5),
            "crawled_at": (crawled_at or {}).get(doc_id, "20260101T000000Z"),
        }
        for doc_id in order
    ]
    documents = pa.Table.from_pylist(rows)
    shuffled = signed.take(pa.array(random.Random(str(order)).sample(range(len(signed)), len(signed))))

    def read(columns):
        yield from shuffled.select(columns).to_batches(max_chunksize=7)

    found = cluster_documents(documents, read, recipe, "text")
    broken = audit_clusters(found.decisions, found.pairs, found.pairs, read)
    assert {name: value for name, value in broken.items() if value and name != "proofs_recomputed"} == {}
    return found


def decisions(found: Clusters) -> dict[str, dict]:
    return {row["doc_id"]: row for row in found.decisions.to_pylist()}


def jaccard(a: str, b: str) -> float:
    """True Jaccard by brute force."""
    x, y = (set(shingles(normalise(text), 5, 5).tolist()) for text in (a, b))
    return len(x & y) / len(x | y)


def brute_force_components(texts: dict[str, str], threshold: float = 0.8) -> set[frozenset[str]]:
    """Components of all pairs at or over the threshold, looking at every pair."""
    group = {doc_id: {doc_id} for doc_id in texts}
    for a in texts:
        for b in texts:
            if a < b and group[a] is not group[b] and jaccard(texts[a], texts[b]) >= threshold:
                group[a] |= group[b]
                for member in group[b]:
                    group[member] = group[a]
    return {frozenset(members) for members in group.values()}


def components(found: Clusters) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for row in found.decisions.to_pylist():
        groups.setdefault(row["cluster_id"], set()).add(row["doc_id"])
    assert all(min(members) == name for name, members in groups.items())
    return {frozenset(members) for members in groups.values()}


@pytest.mark.parametrize("base", [english(1, 300), chinese(1, 600)], ids=["en", "zh"])
def test_planted_exact_near_and_non_duplicates(base: str) -> None:
    half = len(base) // 2
    near = base[: half - 4] + base[half:]
    other = base[: len(base) // 3] + (english(2, 200) if base.isascii() else chinese(2, 400))
    rows = decisions(cluster({"a": base, "b": f"  {base}\n", "c": near, "d": other}, quality={"a": 0.9}))
    assert rows["a"]["kept"] and rows["a"]["representative"] == "a" and rows["a"]["matched_doc_id"] is None
    assert (rows["b"]["drop_reason"], rows["b"]["method"], rows["b"]["similarity"]) == (
        "exact_duplicate",
        "exact_text",
        1.0,
    )
    assert (rows["c"]["drop_reason"], rows["c"]["method"]) == ("near_duplicate", "minhash_jaccard")
    assert rows["b"]["matched_doc_id"] == rows["c"]["matched_doc_id"] == "a"
    assert 0.8 <= rows["c"]["similarity"] < 1
    assert rows["c"]["similarity"] == pytest.approx(jaccard(base, near), abs=1e-12)
    assert rows["d"]["kept"] and rows["d"]["cluster_id"] == "d"


@pytest.mark.parametrize("config", ["s2t", "s2tw", "s2twp", "s2hk"])
def test_a_mechanically_converted_page_matches_its_twin(config: str) -> None:
    from opencc import OpenCC

    page = (
        "软件包管理系统负责安装、升级、配置和删除计算机程序。管理员可以用命令行工具从网络上的服务器下载软件，"
        "检查它的数字签名，并自动解决依赖关系。默认情况下，系统会把下载的文件保存在缓存目录里面，以后重新安装时就不必再次下载。"
        "如果磁盘空间不足，可以清空缓存。为了提高信息安全，建议定期更新操作系统内核以及数据库服务，并阅读发行说明。"
        "编写脚本时请注意字符编码，打印机和鼠标等硬件的驱动程序也由软件包提供。用户界面的翻译由志愿者完成，欢迎参与。"
    )
    converted = OpenCC(config).convert(page)
    assert converted != page
    rows = decisions(cluster({"a": page, "b": converted}))
    assert rows["b"]["matched_doc_id"] == "a" and rows["b"]["similarity"] >= 0.8


def test_a_chain_is_one_cluster_and_its_far_end_matches_a_step_nearer() -> None:
    words = 300
    texts = {"a": english(7, words)}
    for number, doc_id in enumerate("bcdefg"):
        texts[doc_id] = replace_words(texts["a"], [20 * step for step in range(number * 2 + 2)])
    assert jaccard(texts["a"], texts["g"]) < 0.8
    found = cluster(texts, quality={"a": 0.9})
    rows = decisions(found)
    assert components(found) == {frozenset("abcdefg")}
    assert rows["g"]["representative"] == "a"
    for doc_id, row in rows.items():
        if row["kept"]:
            continue
        assert row["similarity"] == pytest.approx(jaccard(texts[doc_id], texts[row["matched_doc_id"]]), abs=1e-12)
        assert row["similarity"] >= 0.8
        if jaccard(texts[doc_id], texts["a"]) >= 0.8:
            assert row["matched_doc_id"] == "a"
        while not rows[doc_id]["kept"]:  # following the matches leads to what was kept
            assert rows[doc_id]["matched_doc_id"] != doc_id
            doc_id = rows[doc_id]["matched_doc_id"]
        assert doc_id == "a"


@pytest.mark.parametrize(
    ("quality", "crawled_at", "expected"),
    [
        ({"a": 0.5, "b": 0.9, "c": 0.5}, {}, "b"),
        ({}, {"a": "20260301T000000Z", "b": "20260201T000000Z", "c": "20260101T000000Z"}, "c"),
        ({"a": 0.6}, {"a": "20260301T000000Z"}, "a"),
        ({}, {}, "a"),
    ],
    ids=["quality", "earliest crawl", "quality before crawl", "smallest id"],
)
def test_representative_rule(quality: dict, crawled_at: dict, expected: str) -> None:
    base = english(3, 200)
    texts = {"c": base, "b": base, "a": replace_words(base, [100])}
    rows = decisions(cluster(texts, quality, crawled_at))
    assert {row["representative"] for row in rows.values()} == {expected}
    assert [doc_id for doc_id, row in rows.items() if row["kept"]] == [expected]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_result_equals_brute_force_in_any_order(seed: int) -> None:
    """Clusters of edits of a few bases; pairs near the threshold included."""
    draw = random.Random(seed)
    texts: dict[str, str] = {}
    for number in range(draw.randrange(2, 24)):
        base = english(draw.randrange(3), 150)
        texts[f"{draw.randrange(10**6):06d}"] = replace_words(
            base, draw.sample(range(150), draw.randrange(0, 5)), str(number)
        )
    quality = {doc_id: draw.choice([0.2, 0.5, 0.8]) for doc_id in texts}
    crawled = {doc_id: f"2026010{draw.randrange(1, 4)}T000000Z" for doc_id in texts}
    found = cluster(texts, quality, crawled)
    # LSH may miss a pair by its nature, never invent one: each component lies inside a true one.
    true = brute_force_components(texts)
    assert all(any(mine <= theirs for theirs in true) for mine in components(found))
    for _ in range(3):
        order = draw.sample(list(texts), len(texts))
        again = cluster({doc_id: texts[doc_id] for doc_id in order}, quality, crawled, order=order)
        assert again.decisions.equals(found.decisions) and again.pairs.equals(found.pairs)
        assert again.stats == found.stats


def test_recall_on_many_planted_pairs() -> None:
    """Pairs from the threshold up: LSH and the agreement bound together may lose a few, at the very edge."""
    texts, planted = {}, []
    for number in range(250):
        base = english(1000 + number, 200)
        texts[f"{number:04d}a"], texts[f"{number:04d}b"] = base, replace_words(base, range(1 + number % 20))
        if jaccard(base, texts[f"{number:04d}b"]) >= 0.8:
            planted.append(number)
    rows = decisions(cluster(texts))
    found = [
        number for number in planted if rows[f"{number:04d}b"]["cluster_id"] == rows[f"{number:04d}a"]["cluster_id"]
    ]
    assert len(planted) > 150 and len(found) >= 0.98 * len(planted)
    assert sum(not row["kept"] for row in rows.values()) == len(found)


def test_step_sizes_change_nothing(monkeypatch) -> None:
    """Work is cut into steps and hash ranges: the result may not know it."""
    base = english(9, 200)
    texts = {f"{n:03d}": replace_words(base, [n % 190, (7 * n) % 190, (n * n) % 190], str(n)) for n in range(150)}
    expected = cluster(texts)
    assert expected.stats["pairs_in_a_bucket"] > 5000
    monkeypatch.setattr(candidates, "PAIRS_PER_STEP", 64)
    monkeypatch.setattr(candidates, "SHINGLES_PER_STEP", 1000)
    monkeypatch.setattr(arrivals, "ROWS_PER_RANGE", 100)
    again = cluster(texts)
    assert again.decisions.equals(expected.decisions) and again.pairs.equals(expected.pairs)
    assert again.stats == expected.stats


def test_a_hot_bucket_of_equal_pages_is_not_quadratic() -> None:
    """600 pages of one template are connected by few compared pairs, each duplicate with its proof."""
    base = english(11, 300)
    texts = {f"{n:03d}": replace_words(base, [150], str(n)) for n in range(600)}
    found = cluster(texts)
    assert found.stats["clusters"] == 1 and found.stats["largest_cluster"] == 600
    assert found.stats["pairs_in_a_bucket"] < 30 * 600 < 600 * 599 / 2
    assert len(found.pairs) == 599


def test_windows_shrink_with_the_bucket_and_bound_its_pairs() -> None:
    sizes = np.array([1, 2, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025, 10**5, 10**8])
    assert candidates.window(sizes).tolist() == [0, 1, 63, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 2]


def test_pairs_of_a_bucket_are_those_of_the_window_whatever_came_before() -> None:
    """Random buckets before and after: proposals that change lead from the one set of pairs to the other."""
    draw = random.Random(3)
    for _ in range(30):
        count = draw.choice([3, 60, 70, 140, 300])
        bucket = np.array([draw.randrange(3) * 64 for _ in range(count)], dtype=np.uint64)
        bucket.sort()
        was, stays = (np.array([draw.random() < 0.8 for _ in range(count)]) for _ in range(2))
        nodes = np.array(draw.sample(range(1000), count), dtype=np.uint64)

        def expected(live, bucket=bucket, nodes=nodes) -> set:
            found = set()
            for one in np.unique(bucket):
                members = nodes[(bucket == one) & live].tolist()
                size = len(members)
                reach = size if size <= 64 else 32 if size <= 128 else 16 if size <= 256 else 8
                found |= {
                    (min(a, b), max(a, b)) for at, a in enumerate(members) for b in members[at + 1 : at + 1 + reach]
                }
            return found

        rows = [
            tuple(row)
            for part in candidates.changed_pairs(candidates.Bucketed(bucket, nodes, was, stays))
            for row in part.tolist()
        ]
        more, less = ({(a, b) for a, b, _, proposed in rows if proposed == flag} for flag in (1, 0))
        assert len(rows) == len(more) + len(less)
        assert (expected(was) - less) | more == expected(stays) and less <= expected(was) and not more & expected(was)


def test_jaccard_of_sets_is_exact(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    sets = [np.unique(draw.integers(0, 2**63, 50 + n, dtype=np.uint64)) for n in range(6)]
    sets.append(np.unique(np.concatenate([sets[0], sets[5][:20]])))
    writer = SegmentWriter(tmp_path, "state/one")
    numbers = np.arange(10, 17, dtype=np.uint64)
    sizes = np.array([len(one) for one in sets])
    digests = np.zeros((7, 2), dtype=np.uint64)
    writer.append_nodes(numbers, digests, sizes, np.zeros((7, 4), dtype=np.uint32), np.concatenate(sets))
    entry, files = writer.finish_nodes()
    first, second = np.triu_indices(7, 1)
    found = candidates.jaccard(numbers[first], numbers[second], View([entry], files).nodes)
    for a, b, value in zip(first, second, found, strict=True):
        x, y = set(sets[a].tolist()), set(sets[b].tolist())
        assert value == len(x & y) / len(x | y)


def test_no_documents_and_missing_signatures() -> None:
    empty = pa.table(
        {
            "doc_id": pa.array([], pa.string()),
            "quality": pa.array([], pa.float64()),
            "crawled_at": pa.array([], pa.string()),
        }
    )
    assert len(cluster_documents(empty, lambda columns: iter(()), RECIPE, "text").decisions) == 0
    one = pa.table({"doc_id": ["a"], "quality": [0.5], "crawled_at": ["20260101T000000Z"]})
    with pytest.raises(BuildError, match="1 live documents have no signature, first a"):
        cluster_documents(one, lambda columns: iter(()), RECIPE, "text")


def test_more_bands_than_slots_are_refused() -> None:
    with pytest.raises(BuildError, match="needs 120 MinHash slots, the signatures have 108"):
        cluster({"a": english(1)}, recipe=DedupRecipe(bands=20))
