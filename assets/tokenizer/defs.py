"""The assets of tokenizer: inputs in, tables, tokenizer files and shards out."""

from __future__ import annotations

from pydantic import BaseModel

from assets import plots, schemas
from assets.build import Build, Sample, StageReport
from assets.tables import write_table
from assets.tokenizer import report as measuring
from assets.tokenizer import sample, shards, training
from assets.tokenizer.encoding import encoder_threads, load_tokenizer, token_dtype
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
    """Each corpus document's tokens; only what is new against the accepted version is encoded."""
    recipe = build.recipe("token_shards", shards.TokenShardsRecipe)
    corpus = build.one("corpus").table("documents", ["doc_id", "crawl", "language"]).sort_by("doc_id")
    wanted = shards.Wanted(*(corpus.column(name).to_pylist() for name in ("doc_id", "crawl", "language")))
    tokenizer_path = build.one("tokenizer").path("tokenizer.json")
    segments = build.all("extracted_documents")
    result = shards.build_shards(
        wanted, segments, tokenizer_path, build.previous, build.output, recipe, build.workers, build.progress
    )
    index = shards.index_table(result)
    write_table(build.output, "index", index, schemas.TOKEN_INDEX)
    bpe = load_tokenizer(tokenizer_path)
    dtype = token_dtype(bpe.get_vocab_size())
    decoded = shards.decode_some(build.output, result, wanted, bpe, SHOWN_DOCUMENTS, SHOWN_CHARACTERS)
    lengths = shards.lengths_by_channel(wanted, result)
    totals = {channel: sum(values) for channel, values in lengths.items()}
    return StageReport(
        documents_in=len(wanted.doc_ids),
        documents_kept=len(result.entries),
        tokens_out=sum(totals.values()),
        stats=shards.summary(build.output, result, dtype) | {"channel_tokens": totals},
        samples=[Sample("Decoded from the shards", ("doc_id", "channel", "tokens", "begins", "ends"), decoded)],
        plots={"Document length": plots.histogram("tokens per document", lengths, logarithmic=True)},
        volatile_files=(shards.SHARD_FILES, shards.TEXT_VERSIONS_FILE),
    )
