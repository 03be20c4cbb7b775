"""The graph, read top to bottom: raw web to an evaluated base model.

This list is the only place that says which assets exist, in which order, and what each one reads.
Its order = Dagster groups = folders in assets/ = prefixes in the store. graph/definitions.py turns each
row into a Dagster asset; the build function of an asset has the asset's name and stands in
`assets/<group>/defs.py`; its pure logic is in the modules named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PartitionKind = Literal["crawl", "run"] | None
EdgeKind = Literal["same", "previous", "all", "frozen", "pinned", "records"]

Job = Literal["crawl_job", "curate_job", "pretrain_job", "audit_job"]


@dataclass(frozen=True)
class Edge:
    """An input. How the partitions of `upstream` map to one partition of the reader:

    same: the same partition · previous: the source's preceding crawl, if any · all: every partition ·
    frozen: all, but only a changed recipe upstream makes the reader stale, never new data ·
    pinned: the version that was on main when the run was planned (mixture_manifest), whatever comes later; only
    a changed recipe upstream makes the newest run stale ·
    records: every published partition in whatever state: a record of what happened.
    """

    upstream: str
    kind: EdgeKind


@dataclass(frozen=True)
class Stage:
    """One asset: what it is, what it reads, which code and which recipe tables decide its content."""

    name: str
    group: str
    partition: PartitionKind
    inputs: tuple[Edge, ...]
    recipes: tuple[str, ...]  # tables of the recipe file that tune it
    modules: tuple[str, ...]  # modules whose code (and imports) are its code version
    sentence: str  # what it is and why, in the UI
    kinds: tuple[str, ...]
    resumable: bool = False  # an interrupted build continues from its output folder
    once: bool = False  # a published partition is never built again: evidence of the web, or what a run is bound to
    data_files: tuple[str, ...] = ()  # globs of files in the repository that are read like code

    def __hash__(self) -> int:
        """By name, which is unique in the graph: caches are asked by stage for every partition."""
        return hash(self.name)

    @property
    def sort_key(self) -> int:
        """Position in the graph."""
        return STAGES.index(self)


def _edges(kind: EdgeKind, *names: str) -> tuple[Edge, ...]:
    return tuple(Edge(name, kind) for name in names)


STAGES: tuple[Stage, ...] = (
    # --- sources: what the world said, byte for byte
    Stage(
        "raw_crawl",
        "sources",
        "crawl",
        inputs=_edges("previous", "raw_crawl"),
        recipes=("sources",),
        modules=("assets.sources.crawl", "assets.sources.web.spider"),
        sentence="Everything one crawl of one source fetched, as WARC with an index: the untouched evidence that every later stage can be rebuilt from.",
        kinds=("warc", "scrapy"),
        once=True,
    ),
    Stage(
        "crawl_delta",
        "sources",
        "crawl",
        inputs=_edges("same", "raw_crawl") + _edges("previous", "crawl_delta"),
        recipes=("delta",),
        modules=("assets.sources.delta",),
        sentence="What this crawl added, changed and removed against the source's previous crawl: the cost of everything downstream follows this table, not the corpus.",
        kinds=("parquet",),
    ),
    # --- documents: text worth reading
    Stage(
        "extracted_documents",
        "documents",
        "crawl",
        inputs=_edges("same", "raw_crawl", "crawl_delta"),
        recipes=("extraction",),
        modules=("assets.documents.extraction",),
        sentence="The main content of each new or changed capture as clean text, or the reason why none could be had.",
        kinds=("parquet", "datatrove"),
    ),
    Stage(
        "filtered_documents",
        "documents",
        "crawl",
        inputs=_edges("same", "extracted_documents"),
        recipes=("filters",),
        modules=("assets.documents.recipe",),
        sentence="One decision per document: its language, every signal that was measured, and why it was dropped, with samples of the drops to argue with.",
        kinds=("parquet", "datatrove"),
    ),
    # --- dedup: each thing once, nothing that the evaluations ask
    Stage(
        "document_signatures",
        "dedup",
        "crawl",
        inputs=_edges("same", "extracted_documents", "filtered_documents"),
        recipes=("signatures",),
        modules=("assets.dedup.signatures",),
        sentence="Shingles and MinHash of each kept document: computed once, when the page arrives, and never again.",
        kinds=("parquet", "minhash"),
    ),
    Stage(
        "duplicate_clusters",
        "dedup",
        None,
        inputs=_edges("all", "crawl_delta", "filtered_documents", "document_signatures"),
        recipes=("dedup",),
        modules=("assets.dedup.clusters",),
        sentence="Which live documents are the same text, exactly or nearly, proven pair by pair; the best one of each cluster stays and every duplicate names what it matched.",
        kinds=("parquet", "minhash"),
    ),
    Stage(
        "contamination",
        "dedup",
        None,
        inputs=_edges("all", "extracted_documents", "filtered_documents"),
        recipes=("contamination",),
        modules=("assets.dedup.contamination",),
        sentence="Documents that contain evaluation items: kept out of training, or the scores would measure memory.",
        kinds=("parquet",),
        data_files=("assets/evaluation/items/*.jsonl",),
    ),
    Stage(
        "corpus",
        "dedup",
        None,
        inputs=_edges(
            "all", "crawl_delta", "extracted_documents", "filtered_documents", "duplicate_clusters", "contamination"
        ),
        recipes=(),
        modules=("assets.dedup.corpus",),
        sentence="The live, kept, unique, clean documents, and the fate of every other one: the only list of documents that anything downstream reads.",
        kinds=("parquet",),
    ),
    # --- tokenizer: from characters to integers
    Stage(
        "tokenizer_sample",
        "tokenizer",
        None,
        inputs=_edges("frozen", "corpus", "extracted_documents"),
        recipes=("tokenizer_sample",),
        modules=("assets.tokenizer.sample",),
        sentence="A balanced sample frozen by policy, so that the tokenizer does not change every night with the web.",
        kinds=("parquet",),
    ),
    Stage(
        "tokenizer",
        "tokenizer",
        None,
        inputs=_edges("all", "tokenizer_sample"),
        recipes=("tokenizer",),
        modules=("assets.tokenizer.training",),
        sentence="Byte-level BPE, single digits, with spare ids for later alignment: the same sample gives the same file, bit for bit.",
        kinds=("json", "bpe"),
    ),
    Stage(
        "tokenizer_report",
        "tokenizer",
        None,
        inputs=_edges("all", "tokenizer", "tokenizer_sample"),
        recipes=("tokenizer_report",),
        modules=("assets.tokenizer.report",),
        sentence="What the tokenizer does to Chinese, English and code: compression, fertility, round trip, dirty tokens, digit splitting.",
        kinds=("parquet",),
    ),
    Stage(
        "token_shards",
        "tokenizer",
        None,
        inputs=_edges("all", "corpus", "extracted_documents", "tokenizer"),
        recipes=("token_shards",),
        modules=("assets.tokenizer.shards",),
        sentence="The tokens of each corpus document, end to end in binary shards, with an index that finds any document.",
        kinds=("binary",),
    ),
    # --- mixture: what is read, how often, in which order
    Stage(
        "mixture_manifest",
        "mixture",
        "run",
        inputs=_edges("pinned", "corpus", "token_shards"),
        recipes=("mixture", "training", "model"),
        modules=("assets.mixture.mixture",),
        sentence="The plan of one run: shares per channel and phase, held-out documents, and how often each document is used. It pins the corpus version for good.",
        kinds=("parquet",),
        once=True,
    ),
    Stage(
        "order_manifest",
        "mixture",
        "run",
        inputs=_edges("same", "mixture_manifest") + _edges("pinned", "token_shards", "corpus"),
        recipes=("order", "training", "model"),
        modules=("assets.mixture.order",),
        sentence="Which pieces of which documents make up each training sequence: the record that answers at which step a page was seen.",
        kinds=("parquet",),
        once=True,
    ),
    # --- training: torchtitan, watched
    Stage(
        "compute_plan",
        "training",
        "run",
        inputs=_edges("same", "mixture_manifest", "order_manifest") + _edges("pinned", "tokenizer"),
        recipes=("model", "training"),
        modules=("assets.training.plan",),
        sentence="Parameters, tokens, FLOPs, memory and time of the run, before it costs anything.",
        kinds=("json",),
        once=True,
    ),
    Stage(
        "base_checkpoints",
        "training",
        "run",
        inputs=_edges("same", "compute_plan", "order_manifest", "mixture_manifest")
        + _edges("pinned", "token_shards", "tokenizer"),
        recipes=("model", "training", "incidents", "watch"),
        modules=("assets.training.run_request", "training.main"),
        sentence="A Llama trained by torchtitan on exactly the planned order: one row, one folder and one safetensors export per saved step.",
        kinds=("pytorch", "torchtitan"),
        once=True,
        resumable=True,
    ),
    Stage(
        "loss_incidents",
        "training",
        "run",
        inputs=_edges("same", "base_checkpoints", "order_manifest") + _edges("pinned", "corpus"),
        recipes=("incidents",),
        modules=("assets.training.incident_tables",),
        sentence="Steps whose loss or gradient left the expected band, the cause, the documents, URLs and sources they were traced to, and what was done.",
        kinds=("parquet",),
    ),
    # --- evaluation: trends over checkpoints, not single numbers
    Stage(
        "perplexity",
        "evaluation",
        "run",
        inputs=_edges("same", "base_checkpoints", "mixture_manifest", "order_manifest")
        + _edges("pinned", "token_shards", "tokenizer"),
        recipes=("perplexity",),
        modules=("assets.evaluation.perplexity",),
        sentence="Loss, perplexity and bits per byte on held-out documents, per language and domain, for every checkpoint, beside a unigram baseline.",
        kinds=("parquet", "pytorch"),
    ),
    Stage(
        "probability_probes",
        "evaluation",
        "run",
        inputs=_edges("same", "base_checkpoints") + _edges("pinned", "tokenizer"),
        recipes=("probes",),
        modules=("assets.evaluation.probes",),
        sentence="How probable the model finds chosen facts, sentences and contrasts in Chinese and English, watched over training.",
        kinds=("parquet", "pytorch"),
        data_files=("assets/evaluation/items/*.jsonl",),
    ),
    Stage(
        "needle_in_haystack",
        "evaluation",
        "run",
        inputs=_edges("same", "base_checkpoints", "mixture_manifest") + _edges("pinned", "tokenizer", "token_shards"),
        recipes=("needles",),
        modules=("assets.evaluation.needles",),
        sentence="Whether the model can use a fact placed at a known depth of a long held-out context.",
        kinds=("parquet", "pytorch"),
        data_files=("assets/evaluation/items/*.jsonl",),
    ),
    Stage(
        "release_card",
        "evaluation",
        "run",
        inputs=_edges(
            "same",
            "compute_plan",
            "mixture_manifest",
            "base_checkpoints",
            "loss_incidents",
            "perplexity",
            "probability_probes",
            "needle_in_haystack",
        )
        + _edges("pinned", "corpus"),
        recipes=(),
        modules=("assets.evaluation.release_card",),
        sentence="What the model was made from, how, and how well it does: the page that goes with the weights.",
        kinds=("markdown",),
    ),
    # --- lineage: from a page to a checkpoint and back
    Stage(
        "lineage_index",
        "lineage",
        None,
        inputs=_edges("all", "corpus")
        + _edges("records", "mixture_manifest", "order_manifest", "base_checkpoints", "perplexity"),
        recipes=(),
        modules=("assets.lineage.index",),
        sentence="Document to sequence to step to checkpoint to score, for every run: one look-up answers who saw a URL, and when.",
        kinds=("parquet",),
    ),
    Stage(
        "lineage_audit",
        "lineage",
        None,
        inputs=_edges("all", "lineage_index")
        + _edges("records", "mixture_manifest", "order_manifest", "base_checkpoints"),
        recipes=(),
        modules=("assets.lineage.audit",),
        sentence="Proof from the manifests alone: no held-out document and no evaluation item in any training sequence, every sequence accounted for.",
        kinds=("parquet",),
    ),
)

BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(stage.group for stage in STAGES))
"""Groups in the order of the graph."""


def downstream(name: str) -> list[Stage]:
    """All stages that read `name`, directly or through others, in graph order."""
    reached = {name}
    for stage in STAGES:
        if any(edge.upstream in reached for edge in stage.inputs):
            reached.add(stage.name)
    reached.discard(name)
    return [stage for stage in STAGES if stage.name in reached]


def ancestors(stage: Stage) -> list[Stage]:
    """All stages that `stage` reads, directly or through others, in graph order; itself, if an earlier partition of it."""
    reached: set[str] = set()
    for each in reversed(STAGES):
        if each is stage or each.name in reached:
            reached |= {edge.upstream for edge in each.inputs}
    return [each for each in STAGES if each.name in reached]


def job_of(stage: Stage) -> Job:
    """The job that makes a stage: of one crawl, of one run, of what all crawls give, of what all runs give."""
    if stage.partition == "crawl":
        return "crawl_job"
    if stage.partition == "run":
        return "pretrain_job"
    return "audit_job" if any(each.partition == "run" for each in ancestors(stage)) else "curate_job"


JOBS: dict[Job, tuple[str, ...]] = {
    job: tuple(stage.name for stage in STAGES if job_of(stage) == job) for job in get_args(Job)
}
"""What each job makes, in graph order. A run of chosen assets, from the UI, counts by its assets."""


def follows_data(stage: Stage) -> bool:
    """Whether new crawls make a built stage stale; only a changed recipe does where all ways to them are frozen or pinned."""
    return stage.partition == "crawl" or any(
        edge.kind not in ("frozen", "pinned") and follows_data(BY_NAME[edge.upstream]) for edge in stage.inputs
    )
