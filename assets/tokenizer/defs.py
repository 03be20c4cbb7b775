"""The assets of tokenizer: inputs in, tables, tokenizer files and shards out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from assets import plots, schemas
from assets.build import Build, Sample, StageReport, UpdatedTables
from assets.delta_table import Changes
from assets.tables import write_table
from assets.tokenizer import report as measuring
from assets.tokenizer import sample, shards, training
from assets.tokenizer.encoding import encoder_threads, load_tokenizer, token_dtype
from assets.tokenizer.shards_update import move_tokens, plan_shards
from assets.tokenizer.texts import group_by_crawl, read_texts

RECIPES: dict[str, type[BaseModel]] = {
    "tokenizer_sample": sample.TokenizerSampleRecipe,
    "tokenizer": training.TokenizerRecipe,
    "tokenizer_report": measuring.TokenizerReportRecipe,
    "token_shards": shards.TokenShardsRecipe,
}

SHOWN_CHARACTERS = 120
SHOWN_DOCUMENTS = 8


def tokenizer_sample(build: Build) -> StageReport:
    """Balanced documents for fitting and auditing the tokenizer, frozen."""
    recipe = build.recipe("tokenizer_sample", sample.TokenizerSampleRecipe)
    corpus = build.one("corpus").table("documents", sample.CHOICE_COLUMNS)
    choice = sample.choose(corpus, recipe)
    wanted = group_by_crawl(choice.doc_ids, choice.crawls)
    texts = {doc_id: text for _, doc_id, text in read_texts(build.all("extracted_documents"), wanted)}
    columns = (choice.doc_ids, choice.languages, choice.domains, choice.splits)
    rows = [
        {"doc_id": doc_id, "language": language, "domain": domain, "split": split, "text": texts[doc_id]}
        for doc_id, language, domain, split in zip(*columns, strict=True)
    ]
    write_table(build.output, "documents", rows, schemas.TOKENIZER_SAMPLE)
    sizes = {split: dict.fromkeys(recipe.channels, 0) for split in ("fit", "audit")}
    for row in rows:
        sizes[row["split"]][row["language"]] += len(row["text"].encode())
    shown = tuple(
        (r["split"], r["language"], r["domain"], r["text"][:SHOWN_CHARACTERS]) for r in rows[:SHOWN_DOCUMENTS]
    )
    return StageReport(
        documents_in=corpus.num_rows,
        documents_kept=len(rows),
        dropped=choice.dropped,
        stats={
            "fit_bytes": sizes["fit"],
            "audit_bytes": sizes["audit"],
            "fit_documents": choice.splits.count("fit"),
            "audit_documents": choice.splits.count("audit"),
            "channels_without_documents": sorted(c for c in recipe.channels if not sizes["fit"][c]),
        },
        samples=[Sample("Documents of the sample", ("split", "channel", "domain", "text"), shown)],
        plots={"Bytes per channel": plots.grouped_bars("UTF-8 bytes", sizes)},
    )


def tokenizer(build: Build) -> StageReport:
    """tokenizer.json, fitted on the frozen sample."""
    recipe = build.recipe("tokenizer", training.TokenizerRecipe)
    rows = build.one("tokenizer_sample").table("documents", ["doc_id", "split", "text"]).sort_by("doc_id").to_pylist()
    texts = [row["text"] for row in rows if row["split"] == "fit"]
    build.progress.update(0, len(texts), "documents to fit on")
    with encoder_threads(build.workers):
        trained = training.train(texts, recipe)
    path = build.output / "tokenizer.json"
    path.write_text(trained.tokenizer_json, encoding="utf-8")
    (build.output / "tokenizer_config.json").write_text(trained.config_json, encoding="utf-8")
    findings = measuring.inspect_vocabulary(load_tokenizer(path), longest=20)
    trained.stats["merged_digit_tokens"] = len(findings.merged_digit_tokens)
    return StageReport(
        stats=trained.stats,
        samples=[
            Sample("Longest tokens", ("id", "bytes", "text"), tuple(findings.longest)),
            Sample("Forbidden tokens left out", ("text",), tuple((text,) for text in trained.removed[:50])),
        ],
    )


def tokenizer_report(build: Build) -> StageReport:
    """Compression, round trip and rules on the audit documents."""
    recipe = build.recipe("tokenizer_report", measuring.TokenizerReportRecipe)
    bpe = load_tokenizer(build.one("tokenizer").path("tokenizer.json"))
    rows = build.one("tokenizer_sample").table("documents").to_pylist()
    audit = [(row["doc_id"], row["language"], row["text"]) for row in rows if row["split"] == "audit"]
    with encoder_threads(build.workers):
        measures, failed = measuring.measure(bpe, audit)
    table = [measures[channel].row(channel, bpe.get_vocab_size()) for channel in sorted(measures)]
    write_table(build.output, "report", table, schemas.TOKENIZER_REPORT)
    findings = measuring.inspect_vocabulary(bpe, recipe.longest_tokens)
    compression = {row["channel"]: round(row["characters_per_token"], 3) for row in table}
    stats = measuring.summary(table, findings, bpe) | {"characters_per_token": compression}
    examples = tuple((text, measuring.cut(bpe, text)) for text in (*measuring.EXAMPLES, *recipe.examples))
    return StageReport(
        stats=stats,
        samples=[
            Sample("How texts are cut", ("text", "tokens"), examples),
            Sample("Longest tokens", ("id", "bytes", "text"), tuple(findings.longest)),
            Sample("Documents that do not survive a round trip", ("doc_id",), tuple((d,) for d in failed[:20])),
        ],
        plots={"Characters per token": plots.grouped_bars("characters per token", {"audit": compression})},
    )


def token_shards(build: Build) -> StageReport:
    """Each corpus document's tokens; an update encodes only what came, and keeps the shards that stand."""
    recipe = build.recipe("token_shards", shards.TokenShardsRecipe)
    tokenizer_path = build.one("tokenizer").path("tokenizer.json")
    bpe = load_tokenizer(tokenizer_path)
    dtype = token_dtype(bpe.get_vocab_size())
    encoding = shards.encoding_of(bpe, tokenizer_path)
    plan = plan_shards(build, encoding, recipe.max_tokens_per_shard, recipe.max_dead_share)
    writer = shards.ShardWriter(build.output, dtype, recipe.max_tokens_per_shard, plan.first_number)
    moved = move_tokens(plan, writer, dtype)
    wanted = group_by_crawl(*(plan.come[name].to_pylist() for name in ("doc_id", "crawl")))
    texts = read_texts(build.all("extracted_documents"), wanted)
    come = shards.encode_into(writer, texts, tokenizer_path, recipe, build.workers, build.progress, len(plan.come))
    writer.close()
    shards.write_json(build.output / shards.ENCODING_FILE, encoding)
    all_shards = plan.kept | writer.shards
    shards.write_shards_file(build.output, all_shards)

    written = UpdatedTables(build.output, plan.base)
    changes = Changes(pa.concat_tables([plan.gone, plan.moved]), pa.concat_tables([come, moved]))
    written.write("index", changes, schemas.TOKEN_INDEX)
    written.keep(plan.kept)
    output = written.segment()
    index = output.table("index", ["doc_id", "tokens"])
    corpus = build.one("corpus").table("documents", ["doc_id", "language", "source"])
    lengths = _lengths_by_channel(index, corpus)
    totals = {channel: int(values.sum()) for channel, values in lengths.items()}
    first = corpus.slice(0, 4096)
    languages = dict(zip(first["doc_id"].to_pylist(), first["language"].to_pylist(), strict=True))
    decoded = shards.decode_some(output, languages, bpe, SHOWN_DOCUMENTS, SHOWN_CHARACTERS)
    stats = shards.summary(output, all_shards, index, dtype)
    return StageReport(
        documents_in=len(corpus),
        documents_kept=len(index),
        tokens_out=sum(totals.values()),
        stats=stats
        | {"channel_tokens": totals, "documents_encoded": len(come), "documents_moved": len(moved)}
        | {"shards_kept": len(plan.kept), "documents_by_source": _counts(corpus["source"])},
        samples=[Sample("Decoded from the shards", ("doc_id", "channel", "tokens", "begins", "ends"), decoded)],
        plots={"Document length": plots.histogram("tokens per document", lengths, logarithmic=True)},
        volatile_files=(shards.SHARD_FILES, shards.SHARDS_FILE),
        extends=written.extends,
    )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {
        str(entry["values"]): int(entry["counts"]) for entry in sorted(pc.value_counts(column).to_pylist(), key=str)
    }


def _lengths_by_channel(index: pa.Table, corpus: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
    """Channel -> tokens of each of its documents."""
    channel = corpus["language"].take(pc.index_in(index["doc_id"], value_set=corpus["doc_id"].combine_chunks()))
    tokens = index["tokens"].to_numpy()
    names = np.array(channel.to_pylist(), dtype=object)
    return {name: tokens[names == name] for name in sorted(set(names))}
