"""Every public table: columns, types, meaning. docs/data-contract.md is generated from this module.

Conventions: `doc_id` is 32 hex characters, the first 128 bits of
SHA-256(source NUL canonical_url NUL content_sha256); a decision column is null when the document
goes on and a stable reason string when it does not; times are UTC milliseconds.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from assets.tables import schema

TIMESTAMP = pa.timestamp("ms", tz="UTC")


def document_id(source: str, canonical_url: str, content_sha256: str) -> str:
    """128-bit identity of a document: who published it, where, and exactly what bytes."""
    return hashlib.sha256(f"{source}\0{canonical_url}\0{content_sha256}".encode()).hexdigest()[:32]


CAPTURES = schema(
    {
        "url": pa.string(),  # canonical URL: the identity of the page inside its source
        "requested_url": pa.string(),  # as it was asked for, before redirects and canonical form
        "source": pa.string(),
        "crawl": pa.string(),  # crawl partition, source@YYYYMMDDTHHMMSSZ
        "fetched_at": TIMESTAMP,
        "status": pa.int32(),  # HTTP status; null when there was no answer
        "content_type": pa.string(),  # media type that the server declared
        "content_length": pa.int64(),  # bytes of the payload
        "content_sha256": pa.string(),  # of the payload; null when there is none
        "doc_id": pa.string(),  # null when there is no payload
        "etag": pa.string(),  # of the server, for asking again whether the page changed
        "last_modified": pa.string(),  # header of the server, as sent
        "licence": pa.string(),
        "domain": pa.string(),  # documentation | code | news | ..., declared by the source
        "opt_out": pa.string(),  # the signal that forbids training, null when none
        "robots_sha256": pa.string(),  # of the robots.txt that was obeyed; null when there is none
        "drop_reason": pa.string(),  # null = a capture that goes on
        "warc_file": pa.string(),  # null when nothing was stored
        "warc_offset": pa.int64(),  # first byte of the record in warc_file
        "warc_length": pa.int64(),  # bytes of the record, compressed
        "language": pa.string(),  # declared by the publisher; null when it says nothing
        "title": pa.string(),  # declared by the publisher beside the payload
        "metadata": pa.string(),  # JSON of other columns of a data set, mail headers and the like
        "detail": pa.string(),  # why it was dropped, in words
        "location": pa.string(),  # canonical URL that a redirect leads to
        "revisit": pa.string(),  # server_not_modified | identical_payload | sitemap_unchanged; null = fetched in full
        "payload_crawl": pa.string(),  # crawl whose WARC holds the payload of a revisit; null = this one, or no payload
        "payload_fetched_at": TIMESTAMP,  # when that payload was fetched
    },
    volatile=("fetched_at", "warc_file", "warc_offset", "warc_length", "detail", "payload_fetched_at"),
)
"""raw_crawl/<crawl>/captures.parquet: one row per URL the crawl met, sorted by url."""

LINKS = schema(
    {
        "url": pa.string(),
        "canonical_url": pa.string(),  # the page of the source that this one names as its canonical form, if another
        "links": pa.list_(pa.string()),  # URLs inside the source that the page leads to, in page order, as requested
    }
)
"""raw_crawl/<crawl>/links.parquet: one row per kept page of a web source, sorted by url: where a re-crawl continues from a page it need not download."""

CRAWL_DELTA = schema(
    {
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),
        "change": pa.string(),  # added | changed | removed | unchanged
        "rule": pa.string(),  # which rule decided
        "doc_id": pa.string(),  # of the new content; for removed: of the content that went; null where unchanged
        "previous_doc_id": pa.string(),  # of the content that changed or went
        "content_sha256": pa.string(),  # of doc_id
        "missed_crawls": pa.int32(),  # consecutive complete crawls that no longer met the page; 0 when it was met
    }
)
"""crawl_delta/<crawl>/delta.parquet: one row per URL live before or after, sorted by url."""

LIVE_PAGES = schema(
    {
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),  # partition of extracted_documents that holds the text
        "doc_id": pa.string(),  # of the content that is live
        "content_sha256": pa.string(),
        "missed_crawls": pa.int32(),  # consecutive complete crawls that no longer met the page
    },
    key=("url",),
)
"""crawl_delta/<crawl>/live-*.parquet: the pages of the source live after this crawl, an updated table keyed by url."""

DOCUMENTS = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),
        "fetched_at": TIMESTAMP,
        "licence": pa.string(),
        "content_sha256": pa.string(),
        "domain": pa.string(),  # documentation | code | news | ..., declared by the source
        "format": pa.string(),  # html | text | code | markdown | pdf | docx | email | wikitext
        "title": pa.string(),
        "text": pa.string(),  # main content, NFC, LF line ends; empty when dropped
        "drop_reason": pa.string(),
    },
    volatile=("fetched_at",),
)
"""extracted_documents/<crawl>/documents.parquet: one row per added or changed capture, sorted by doc_id."""

FILTERED = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),
        "domain": pa.string(),
        "format": pa.string(),
        "language": pa.string(),  # zh | en | fr | ... | code
        "language_score": pa.float64(),  # 0..1, how sure the detector is
        "script": pa.string(),  # Hans | Hant | Latn | ...; null where it does not apply
        "quality": pa.float64(),  # 0..1, higher is better; representative of a cluster = best quality
        "characters": pa.int64(),
        "utf8_bytes": pa.int64(),
        "signals": pa.map_(pa.string(), pa.float64()),  # every measured signal, sorted by name
        "drop_reason": pa.string(),  # the rule that dropped it; null = kept
    }
)
"""filtered_documents/<crawl>/decisions.parquet: one row per document with text, kept or dropped here, sorted by doc_id."""

SIGNATURES = schema(
    {
        "doc_id": pa.string(),
        "text_sha256": pa.string(),  # of the normalised text: exact duplicates share it
        "shingles_sha256": pa.string(),  # of the sorted shingle hashes: documents that share it are one node
        "shingle_count": pa.int32(),  # distinct shingles
        "shingles": pa.list_(pa.uint64()),  # sorted distinct shingle hashes, below 2**63
        "signature": pa.list_(pa.uint32()),  # MinHash, 108 permutations
    }
)
"""document_signatures/<crawl>/signatures.parquet: one row per kept document, sorted by doc_id."""

DUPLICATES = schema(
    {
        "doc_id": pa.string(),
        "cluster_id": pa.string(),  # smallest doc_id of the cluster
        "representative": pa.string(),  # doc_id that is kept for the cluster
        "kept": pa.bool_(),  # whether this document is the representative
        "drop_reason": pa.string(),  # exact_duplicate | near_duplicate
        "matched_doc_id": pa.string(),  # a verified neighbour in the cluster
        "similarity": pa.float64(),  # true Jaccard with matched_doc_id
        "method": pa.string(),  # exact_text | minhash_jaccard: how it was proven
    },
    key=("doc_id",),
)
"""duplicate_clusters/decisions-*.parquet: one row per live kept document, sorted by doc_id."""

DUPLICATE_PAIRS = schema(
    {
        "doc_id_a": pa.string(),  # the smaller doc_id of the pair
        "doc_id_b": pa.string(),  # the larger one
        "similarity": pa.float64(),  # true Jaccard of their shingles
        "method": pa.string(),  # exact_text | minhash_jaccard: how it was proven
    },
    key=("doc_id_a", "doc_id_b"),
)
"""duplicate_clusters/pairs-*.parquet: the proven pair of each duplicate and what it matched, a < b, sorted."""

CONTAMINATION = schema(
    {
        "doc_id": pa.string(),
        "evaluation_set": pa.string(),  # name of the set whose item was found
        "item_id": pa.string(),  # the item inside the set
        "overlap": pa.float64(),  # share of the item's n-grams found in the document
        "drop_reason": pa.string(),  # contaminated
    },
    key=("doc_id",),
)
"""contamination/decisions-*.parquet: one row per contaminated document (its worst item), sorted by doc_id."""

CORPUS = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),  # partition of extracted_documents that holds the text
        "licence": pa.string(),
        "language": pa.string(),
        "script": pa.string(),
        "domain": pa.string(),
        "format": pa.string(),
        "quality": pa.float64(),
        "characters": pa.int64(),
        "utf8_bytes": pa.int64(),
        "cluster_id": pa.string(),
    },
    key=("doc_id",),
)
"""corpus/documents-*.parquet: the live, kept, unique, clean documents, sorted by doc_id."""

CORPUS_DECISIONS = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),
        "live": pa.bool_(),  # whether it is what its page says now
        "stage": pa.string(),  # stage that dropped it; null = in the corpus
        "drop_reason": pa.string(),  # null = in the corpus
        "matched_doc_id": pa.string(),  # the document kept instead of a duplicate; null for other reasons
    },
    key=("doc_id",),
)
"""corpus/decisions-*.parquet: one row per document ever extracted, with its fate, sorted by doc_id."""

TOKENIZER_SAMPLE = schema(
    {
        "doc_id": pa.string(),
        "language": pa.string(),
        "domain": pa.string(),
        "split": pa.string(),  # fit = the tokenizer was fitted on it | audit = it was measured on it
        "text": pa.string(),  # as in extracted_documents
    }
)
"""tokenizer_sample/documents.parquet: frozen; split = fit | audit; sorted by doc_id."""

TOKENIZER_REPORT = schema(
    {
        "channel": pa.string(),  # zh | en | code | ... | all
        "documents": pa.int64(),  # of the audit split: not seen in fitting
        "characters": pa.int64(),  # of those documents
        "utf8_bytes": pa.int64(),  # of those documents
        "tokens": pa.int64(),  # that they encode to
        "characters_per_token": pa.float64(),  # characters / tokens
        "bytes_per_token": pa.float64(),  # utf8_bytes / tokens
        "hanzi_per_token": pa.float64(),  # inside runs of hanzi; null where there are none
        "tokens_per_word": pa.float64(),  # of Latin words; null where there are none
        "round_trip_failures": pa.int64(),  # documents that decode to another text
        "end_rule_failures": pa.int64(),  # documents not closed by exactly one <|endoftext|>
        "unused_tokens": pa.int64(),  # ids that no audit document of the channel uses
    }
)
"""tokenizer_report/report.parquet: one row per channel, sorted by channel."""

TOKEN_INDEX = schema(
    {
        "doc_id": pa.string(),
        "shard": pa.string(),  # file with its tokens
        "offset": pa.int64(),  # in tokens, from the start of the shard
        "tokens": pa.int64(),  # including the closing end-of-document token
        "token_sha256": pa.string(),  # of the document's little-endian token bytes
        "text_sha256": pa.string(),  # of the encoded text (UTF-8)
        "crawl": pa.string(),  # partition of extracted_documents that the text came from
    },
    volatile=("shard", "offset"),
    key=("doc_id",),
)
"""token_shards/index-*.parquet: one row per corpus document, sorted by doc_id; shards are shard-00000.bin ... (uint16/uint32 LE)."""

MIXTURE = schema(
    {
        "doc_id": pa.string(),
        "channel": pa.string(),  # zh | en | code
        "language": pa.string(),
        "domain": pa.string(),
        "split": pa.string(),  # train | heldout
        "tokens": pa.int64(),  # including the closing end-of-document token
        "utf8_bytes": pa.int64(),
        "stable_uses": pa.float64(),  # times the document is used in the stable phase
        "decay_uses": pa.float64(),  # times the document is used in the decay phase
    }
)
"""mixture_manifest/<run>/documents.parquet: every corpus document of the pinned version, sorted by doc_id."""

MIXTURE_PLAN = schema(
    {
        "phase": pa.string(),  # stable | decay
        "channel": pa.string(),
        "first_sequence": pa.int64(),  # of the phase
        "sequences": pa.int64(),  # of the phase
        "wanted_share": pa.float64(),  # of the recipe
        "share": pa.float64(),  # given; differs where a channel has too few documents for max_uses
        "tokens": pa.int64(),  # the channel gives exactly these to the phase
        "available_tokens": pa.int64(),  # of the documents that the phase may read
        "uses": pa.float64(),  # tokens / available_tokens
    }
)
"""mixture_manifest/<run>/plan.parquet: one row per phase (in order) and channel."""

ORDER = schema(
    {
        "sequence": pa.int64(),  # sequence number: step = sequence // global_batch_size
        "piece": pa.int32(),  # order inside the sequence
        "doc_id": pa.string(),
        "start": pa.int64(),  # first token inside the document
        "length": pa.int64(),  # tokens
        "repeat": pa.int32(),  # 0 = first use of the document
        "channel": pa.string(),
        "phase": pa.string(),  # stable | decay
    }
)
"""order_manifest/<run>/order-*.parquet: the pieces of each sequence, sorted by (sequence, piece); 00000 is the stable phase, 00001 the decay."""

CHECKPOINTS = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),
        "tokens_seen": pa.int64(),
        "sequences_seen": pa.int64(),
        "train_loss": pa.float64(),  # of this step, nats per token
        "learning_rate": pa.float64(),  # of this step
        "folder": pa.string(),  # checkpoints/step-00000100
        "weights_sha256": pa.string(),  # of <folder>/hf/model.safetensors
        "parameters": pa.int64(),  # weights of the model
    }
)
"""base_checkpoints/<run>/checkpoints.parquet: one row per saved step, sorted by step."""

METRICS = schema(
    {
        "step": pa.int64(),
        "loss": pa.float64(),  # of the step's tokens, nats per token
        "gradient_norm": pa.float64(),  # of all weights, before clipping
        "learning_rate": pa.float64(),  # of this step
        "tokens_seen": pa.int64(),
        "tokens_per_s": pa.float64(),  # of all ranks together
        "data_wait_s": pa.float64(),  # of step_s, spent on waiting for data
        "step_s": pa.float64(),  # duration of the step
        "mfu": pa.float64(),  # model FLOPs per second over the peak of the devices
        "monitoring_s": pa.float64(),  # of step_s, spent on measuring
        "channel_loss": pa.map_(pa.string(), pa.float64()),  # channel -> loss of its tokens in this step
    },
    volatile=("tokens_per_s", "data_wait_s", "step_s", "mfu", "monitoring_s"),
)
"""base_checkpoints/<run>/metrics.parquet: one row per step, the table form of metrics.jsonl."""

LAYERS = schema(
    {
        "step": pa.int64(),
        "layer": pa.string(),  # tok_embeddings | layers.0 | ... | norm | output
        "gradient_norm": pa.float64(),  # before clipping
        "weight_norm": pa.float64(),  # of the layer's weights after the step
        "update_ratio": pa.float64(),  # norm of the step's change over the norm of the weights
        "activation_rms": pa.float64(),  # of a block's output; null where there is no block
        "anomaly": pa.bool_(),  # the gradient norm left the layer's own band upwards
    }
)
"""base_checkpoints/<run>/layers.parquet: one row per measured step and layer, in the order of the forward pass."""

HELDOUT = schema(
    {
        "step": pa.int64(),
        "channel": pa.string(),  # ... | all
        "documents": pa.int64(),  # of the held-out sample
        "tokens": pa.int64(),  # of those documents
        "loss": pa.float64(),  # nats per token
        "perplexity": pa.float64(),  # exp(loss)
    }
)
"""base_checkpoints/<run>/heldout.parquet: loss on the held-out sample, one row per scored step and channel."""

QUARANTINE = schema(
    {
        "doc_id": pa.string(),
        "stage": pa.string(),  # training
        "kept": pa.bool_(),  # false
        "reason": pa.string(),  # loss_spike | loss_drop | non_finite
        "run": pa.string(),
        "incident": pa.int64(),  # which incident of the run
        "step": pa.int64(),  # first step of the incident
        "rollback_step": pa.int64(),  # training went back here; no later step reads the document
        "loss": pa.float64(),  # of the document, nats per token
        "expected": pa.float64(),  # its channel's usual loss under the same weights
        "deviation_sigma": pa.float64(),  # (loss - expected) in standard deviations of its channel
    }
)
"""base_checkpoints/<run>/quarantine.parquet: documents that the run was traced to and that it reads no more, sorted by doc_id."""

AMENDMENTS = schema(
    {
        "sequence": pa.int64(),  # number in the order that was not read
        "replaced_by": pa.int64(),  # number of the earlier sequence that was read instead
        "incident": pa.int64(),  # which incident of the run
    }
)
"""base_checkpoints/<run>/amendments.parquet: sequences of the order that were not read, and the earlier ones read in their place."""

INCIDENTS = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),  # first step of the incident
        "last_step": pa.int64(),  # last step of the incident
        "kind": pa.string(),  # loss_spike | loss_drop | gradient_spike | non_finite
        "value": pa.float64(),  # of what was watched, at its worst step
        "expected": pa.float64(),  # middle of the band that it should have stayed in
        "deviation_sigma": pa.float64(),  # (value - expected) in standard deviations of the band
        "cause": pa.string(),  # data | optimiser | unexplained; null where none was looked for
        "action": pa.string(),  # replace_sequences | lower_learning_rate | tighten_clipping | go_on | recorded
        "rollback_step": pa.int64(),  # checkpoint that training went back to (0 = the start); null = it went on
        "doc_ids": pa.list_(pa.string()),  # quarantined documents, furthest from normal first; else those of its steps
        "urls": pa.list_(pa.string()),  # of doc_ids, in their order
        "sources": pa.list_(pa.string()),  # of doc_ids, each once
    }
)
"""loss_incidents/<run>/incidents.parquet: one row per incident, sorted by step; empty when there was none."""

PERPLEXITY = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),
        "tokens_seen": pa.int64(),
        "language": pa.string(),  # zh | en | code | all
        "domain": pa.string(),  # ... | all
        "documents": pa.int64(),  # held-out documents that were scored
        "tokens": pa.int64(),  # of those documents
        "utf8_bytes": pa.int64(),  # of those documents
        "loss": pa.float64(),  # nats per token
        "perplexity": pa.float64(),  # exp(loss)
        "bits_per_byte": pa.float64(),  # loss in bits, per byte of text: comparable between tokenizers
        "unigram_loss": pa.float64(),  # add-one unigram model of the training tokens, same held-out tokens
    }
)
"""perplexity/<run>/perplexity.parquet: one row per checkpoint, language and domain."""

PROBES = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),
        "tokens_seen": pa.int64(),
        "probe_id": pa.string(),  # name of the probe in the probe set
        "language": pa.string(),  # of the prompt
        "kind": pa.string(),  # continuation | contrast | sentence | instruction
        "prompt": pa.string(),  # what the model is given
        "target": pa.string(),  # what should follow
        "log_probability": pa.float64(),  # nats, of the target given the prompt, per token
        "contrast_log_probability": pa.float64(),  # of the wrong answer; null where there is none
        "passed": pa.bool_(),  # target more probable than the contrast; null where there is none
    }
)
"""probability_probes/<run>/probes.parquet: one row per checkpoint and probe."""

NEEDLES = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),
        "tokens_seen": pa.int64(),
        "language": pa.string(),  # of the haystack
        "context_tokens": pa.int64(),  # length of the haystack
        "depth": pa.float64(),  # 0 = start of the context, 1 = end
        "needle": pa.string(),  # the sentence that was hidden
        "answer_log_probability": pa.float64(),  # nats, of the right answer
        "distractor_log_probability": pa.float64(),  # best wrong answer
        "found": pa.bool_(),  # right answer more probable than the best wrong one
    }
)
"""needle_in_haystack/<run>/needles.parquet: one row per checkpoint, language, length and depth."""

LINEAGE_DOCUMENTS = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "source": pa.string(),
        "crawl": pa.string(),
        "live": pa.bool_(),  # whether it is what its page says now
        "stage": pa.string(),  # stage that dropped it; null = in the corpus
        "drop_reason": pa.string(),  # null = in the corpus
        "matched_doc_id": pa.string(),  # the document kept instead of a duplicate; null for other reasons
    }
)
"""lineage_index/documents.parquet: every document ever extracted and its fate, sorted by url, doc_id."""

LINEAGE_USES = schema(
    {
        "doc_id": pa.string(),
        "run": pa.string(),
        "split": pa.string(),  # train | heldout
        "sequences": pa.list_(pa.int64()),  # numbers in the order that hold a piece of it, sorted
        "steps": pa.list_(pa.int64()),  # 1-based optimiser steps that consumed a piece, sorted distinct
        "first_step": pa.int64(),  # the smallest of steps; null = never read
        "last_step": pa.int64(),  # the largest of steps; null = never read
        "tokens_used": pa.int64(),  # tokens of it that were read, repeats counted
        "repeats": pa.int64(),  # distinct uses of the document: 1 = read once, 0 = held out
        "quarantined": pa.string(),  # reason of the run's quarantine; null = none
    }
)
"""lineage_index/uses.parquet: one row per document and run that planned it, sorted by doc_id, run."""

LINEAGE_CHECKPOINTS = schema(
    {
        "run": pa.string(),
        "step": pa.int64(),
        "tokens_seen": pa.int64(),
        "sequences_seen": pa.int64(),
        "weights_sha256": pa.string(),
        "heldout_loss": pa.float64(),  # of all channels at this step, nats per token; null when it was not scored
    }
)
"""lineage_index/checkpoints.parquet: one row per saved checkpoint, sorted by run, step."""

LINEAGE_AMENDMENTS = schema(
    {
        "run": pa.string(),
        "sequence": pa.int64(),  # number in the order that was not read
        "replaced_by": pa.int64(),  # number of the earlier sequence that was read instead
    }
)
"""lineage_index/amendments.parquet: sequences that loss incidents had replaced, and the earlier ones read in their place."""

AUDIT = schema(
    {
        "rule": pa.string(),  # what must hold, as a sentence
        "run": pa.string(),  # training run that it was checked for
        "checked": pa.int64(),  # how many things were looked at
        "violations": pa.int64(),  # how many of them break the rule
        "example": pa.string(),  # one that does; null = none
    }
)
"""lineage_audit/findings.parquet: one row per rule and run."""
