"""Every limit of every check, with its reason and source. Change a number here and nowhere else.

These only gate: they are recorded with each publication but are not part of a data set's fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """`minimum <= statistic <= maximum`, judged over the stage's statistics.

    `statistic` is looked up with `Evidence.statistic`.
    """

    asset: str
    check: str  # a true sentence in snake_case
    statistic: str
    minimum: float | None
    maximum: float | None
    blocking: bool
    reason: str


# One limit a line: a table to read down.
# fmt: off
SOURCES: tuple[Limit, ...] = (
    Limit("raw_crawl", "every_start_url_was_fetched", "start_urls_failed", None, 0, True, "a start URL that fails hides everything that only it links to, for instance a whole language"),
    Limit("raw_crawl", "fetch_failures_are_few", "failed_share", None, 0.1, True, "time-outs and 5xx above a tenth of the URLs mean a site in trouble: crawl again later (assumption, not measured)"),
    Limit("raw_crawl", "stored_payloads_can_be_read_back", "read_back_failures", None, 0, True, "the WARC files are the evidence that everything else is rebuilt from"),
    Limit("raw_crawl", "crawl_was_not_cut_by_a_limit", "cut_by_limit", None, 0, False, "max_pages or max_total_bytes ended the crawl: what lies beyond is not judged, and not removed either"),
    Limit("raw_crawl", "most_urls_are_kept", "drop_rate", None, 0.5, False, "more drops than pages: path_prefixes too wide, or a site that answers with errors (assumption, not measured)"),
    Limit("crawl_delta", "pages_are_live_after_the_crawl", "live_after", 1, None, True, "a source that becomes empty is an accident until a person says otherwise: take it out of sources.toml instead"),
    Limit("crawl_delta", "crawl_was_complete", "crawl_was_complete", 1, None, False, "after an incomplete crawl pages that were not met stay live"),
    Limit("crawl_delta", "few_pages_changed", "changed_share", None, 0.5, False, "half of a site changing at once is usually a new template or a date in each page (assumption, not measured)"),
)

DOCUMENTS: tuple[Limit, ...] = (  # shares that small deltas must not trip are in documents_checks.py
    Limit("extracted_documents", "encodings_are_understood", "undecodable_share", None, 0.02, False, "whole sites in an encoding that nobody declared look like this (assumption, not measured)"),
    Limit("extracted_documents", "most_captures_have_text", "drop_rate", None, 0.3, False, "0 to 1% on the Debian documentation and the standard library; above it the source serves something else than text"),
    Limit("filtered_documents", "only_wanted_languages_are_kept", "kept_outside_keep_languages", None, 0, True, "a language outside keep_languages in the corpus means that a filter was skipped"),
)

YIELD_DOCUMENTS_MINIMUM = 20
"""Partitions smaller than this are neither judged nor history: one page in ten is 5% to 95% by chance alone."""

YIELD_HISTORY_VERSIONS = 20
"""Versions of an asset without partitions that are remembered per source: enough for a median, few enough for a manifest."""

YIELD_SIGMA = 6.0
"""Standard deviations that a drop reason's share may move. High, because nights are not independent and there are
dozens of reasons a night: by chance alone 6 sigma come once in 500 million comparisons, 4 once in 16,000."""

YIELD_POINTS_MINIMUM = 0.1
"""Share of the documents by which a reason must move besides: in a crawl of 100,000 pages 6 sigma are half a percent,
which no person would look at (assumption, not measured)."""

YIELD_USUAL_SHARE = 0.05
"""A reason that usually takes less may fall silent without an alarm (assumption)."""

YIELD_SILENT_DOCUMENTS = 10.0
"""Documents that a silent rule should have dropped by its history: none of 10 comes by chance once in 22,000."""

YIELD_ALL_SHARE = 0.98
"""Dropping more than this is dropping everything; also for a source without history. A default English filter drops
98% of good Chinese pages (measured on the Debian handbook)."""

WATCHED_SOURCE_DOCUMENTS = 20
"""Sources smaller than this are not watched: a handful of pages may all be duplicates by chance (assumption)."""

DUPLICATE_RATE_CHANGE_MAXIMUM = 0.1
"""Points the duplicate rate may move between versions without a remark (assumption, not measured)."""

CONTAMINATED_SHARE_MAXIMUM = 0.2
"""Share of the documents that may hold evaluation items (assumption: more is a common sentence among the items)."""

CORPUS_SHRINKAGE_MAXIMUM = 0.3
"""Share of the corpus that may leave at once (assumption: more than any takedown, less than a broken filter)."""

DEDUP: tuple[Limit, ...] = (
    Limit("document_signatures", "every_signature_is_complete", "incomplete_signatures", None, 0, True, "no shingles or a wrong number of slots compare wrongly in every later crawl"),
    Limit("document_signatures", "few_documents_are_too_short_to_compare", "short_share", None, 0.05, False, "one-shingle documents match only themselves; many of them mean an extraction that lost the text"),
    Limit("document_signatures", "shingle_sets_are_mostly_distinct", "distinct_share", 0.5, None, False, "one text for most pages is a consent wall or an error page, not a site"),
    Limit("duplicate_clusters", "every_live_document_has_a_decision", "documents_without_decision", None, 0, True, "a document without a decision would leave the corpus unexplained"),
    Limit("duplicate_clusters", "representatives_are_kept_and_live", "representatives_lost", None, 0, True, "a duplicate may go only because its representative stays"),
    Limit("duplicate_clusters", "each_cluster_keeps_exactly_one", "clusters_without_exactly_one_kept", None, 0, True, "none loses a text, two keep a duplicate"),
    Limit("duplicate_clusters", "matches_stay_inside_the_cluster", "matches_outside_cluster", None, 0, True, "matched_doc_id must explain the drop"),
    Limit("duplicate_clusters", "every_duplicate_has_its_proof", "duplicates_without_proof", None, 0, True, "each dropped document has a row in pairs"),
    Limit("duplicate_clusters", "recomputed_proofs_agree", "proofs_wrong", None, 0, True, "Jaccard of 200 pairs computed again from the shingles by other code"),
    Limit("duplicate_clusters", "candidates_are_mostly_right", "candidate_precision", 0.1, None, False, "computing mostly refused pairs means templated pages or bands too short for the threshold"),
    Limit("contamination", "items_are_searched_for", "items_searched", 1, None, True, "without items nothing is contaminated and every score is suspect"),
    Limit("contamination", "planted_items_are_recognised", "items_not_recognised", None, 0, True, "each searched item, planted in an English and a Chinese sentence, must be found"),
    Limit("contamination", "contamination_is_rare", "drop_rate", None, 0.02, False, "more than a few pages holding items: look at which item"),
    Limit("corpus", "every_document_is_accounted_for", "documents_unaccounted", None, 0, True, "each document ever extracted has exactly one fate"),
    Limit("corpus", "corpus_is_not_empty", "documents_kept", 1, None, True, "an empty corpus is a broken stage upstream"),
    Limit("corpus", "licences_are_known", "unlicensed_share", None, 0.5, False, "documents without a stated licence are a risk to know of"),
)

TOKENIZER: tuple[Limit, ...] = (
    Limit("tokenizer_sample", "sample_has_documents_to_fit_on", "fit_documents", 1, None, True, "nothing can be learned from nothing"),
    Limit("tokenizer_sample", "sample_has_documents_to_audit", "audit_documents", 1, None, True, "compression measured on the fitted text flatters"),
    Limit("tokenizer_sample", "sample_can_carry_its_measures", "audit_documents", 30, None, False, "below about 30 documents a compression rate is an anecdote (assumption)"),
    Limit("tokenizer", "vocabulary_exceeds_the_bytes", "merges", 1, None, True, "without a merge every token is a byte: training went wrong"),
    Limit("tokenizer", "digits_stand_alone", "merged_digit_tokens", 0, 0, True, "9.11 and 9.9 compare wrongly when digits merge; Llama and DeepSeek split them too"),
    Limit("tokenizer", "entries_are_fed_by_the_sample", "sample_bytes_per_token", 100, None, False, "a vocabulary entry seen a handful of times keeps an untrained embedding (assumption)"),
    Limit("tokenizer_report", "text_survives_a_round_trip", "round_trip_failures", 0, 0, True, "byte-level BPE is lossless by construction: one failure means a broken pre-tokeniser or decoder"),
    Limit("tokenizer_report", "digits_stand_alone", "merged_digit_tokens", 0, 0, True, "the rule of the recipe, read from the vocabulary itself"),
    Limit("tokenizer_report", "documents_end_exactly_once", "end_rule_failures", 0, 0, True, "a lost or doubled end token joins or splits documents silently (marin #5034 lost BOS in 10 data sets)"),
    Limit("tokenizer_report", "special_tokens_in_text_stay_text", "specials_parsed_from_text", 0, 0, True, "a web page must not be able to end a document"),
    Limit("tokenizer_report", "nothing_is_added_around_text", "tokens_added_around_text", 0, 0, True, "the shards add the one end token; a second rule would double it"),
    Limit("tokenizer_report", "vocabulary_is_used", "unused_token_share", None, 0.6, False, "entries that no audit document uses cost parameters; a small audit split leaves many"),
    Limit("token_shards", "shards_hold_what_the_index_says", "tokens_not_in_index", 0, 0, True, "sizes of the files against the index: a truncated or orphaned shard trains on garbage"),
    Limit("token_shards", "every_document_has_tokens", "documents_without_tokens", 0, 0, True, "even an empty text has its end token"),
    Limit("token_shards", "documents_are_not_empty", "documents_with_only_the_end_token", 0, 0, False, "the filters should have dropped an empty text"),
)

MIXTURE: tuple[Limit, ...] = (
    Limit("mixture_manifest", "held_out_documents_have_no_uses", "heldout_with_uses", 0, 0, True, "perplexity on trained text measures memory"),
    Limit("mixture_manifest", "every_channel_has_held_out_documents", "fewest_heldout_documents", 1, None, True, "a channel without held-out documents cannot be evaluated"),
    Limit("mixture_manifest", "held_out_documents_suffice", "fewest_heldout_documents", 8, None, False, "the spread of one document's loss is large: fewer than about 8 hide a trend (assumption)"),
    Limit("mixture_manifest", "held_out_share_is_small", "heldout_token_share", None, 0.25, True, "evaluation must not eat the corpus; only tiny corpora come near"),
    Limit("mixture_manifest", "no_document_is_overused", "largest_uses", None, 4.0, True, "up to 4 uses are nearly as good as new text, beyond that the return falls fast (Muennighoff et al. 2023)"),
    Limit("mixture_manifest", "channels_get_what_the_recipe_wants", "largest_share_shortfall", None, 0.02, False, "a channel with too few documents gives less; the others fill in"),
    Limit("mixture_manifest", "mixture_resembles_the_recipe", "largest_share_shortfall", None, 0.2, True, "a channel that is mostly missing makes another model than the one that was asked for"),
    Limit("order_manifest", "no_held_out_document_is_read", "heldout_pieces", 0, 0, True, "counted on the pieces themselves"),
    Limit("order_manifest", "every_sequence_is_full", "sequences_not_full", 0, 0, True, "the trainer reads sequence_length + 1 tokens, no padding"),
    Limit("order_manifest", "every_sequence_is_there", "sequences_missing", 0, 0, True, "total_steps * global_batch_size sequences, or the last steps have nothing to read"),
    Limit("order_manifest", "pieces_lie_inside_their_documents", "pieces_beyond_document", 0, 0, True, "a piece past the end of its document reads the next one's tokens"),
    Limit("order_manifest", "no_document_is_read_too_often", "most_uses", None, 4, True, "the same limit as the plan's, counted on the pieces (Muennighoff et al. 2023)"),
    Limit("order_manifest", "shares_are_as_planned", "largest_share_deviation", None, 0.001, True, "channels give whole sequences of the plan: any deviation is a defect"),
    Limit("order_manifest", "shares_hold_all_along", "largest_stretch_deviation", None, 0.05, False, "a stretch of another mixture looks like a loss spike; very short runs cannot be even"),
)

TRAINING: tuple[Limit, ...] = (
    Limit("compute_plan", "a_rank_fits_its_device", "memory_gib_per_rank", None, 76.0, True, "the usual large accelerator has 80 GB; shard more, or lower local_batch_size"),
    Limit("compute_plan", "all_ranks_fit_this_machine", "memory_share_of_this_machine", None, 0.8, False, "if the run trains here: the rest is for the operating system and the data; does not matter if it trains elsewhere"),
    Limit("compute_plan", "tokens_suit_the_model_size", "tokens_per_parameter", 0.2, 2000.0, False, "20 is compute-optimal (Chinchilla), recent small models use up to 2,000; below 0.2 most weights stay as they began"),
    Limit("compute_plan", "run_ends_within_a_week", "seconds_estimate", None, 7 * 86400.0, False, "longer than a week is a decision for a person; assumption, not measured"),
    Limit("base_checkpoints", "the_model_learned", "final_loss_share_of_first", None, 0.97, True, "a dozen steps bring the first loss down by more than 3%; else gradients, data or learning rate are broken"),
    Limit("base_checkpoints", "the_first_loss_is_that_of_an_untrained_model", "first_loss_over_uniform", 0.9, 1.3, True, "new weights give ln(vocabulary) + 0.5 (1.08 measured); below: targets leak into inputs, above: broken initial weights"),
    Limit("base_checkpoints", "the_loader_keeps_up", "data_wait_share", None, 0.1, False, "time that compute waits for data; 0.3% measured on CPU"),
    Limit("base_checkpoints", "clipping_is_the_exception", "clipped_share", None, 0.5, False, "if half of the steps are clipped, the learning rate is set by the clipping; assumption, not measured"),
    Limit("loss_incidents", "losses_and_gradients_are_finite", "non_finite", None, 0.0, True, "a NaN in the curve means that the weights after it are worthless; training itself stops at one"),
    Limit("loss_incidents", "incidents_are_rare", "incidents_per_1000_steps", None, 10.0, False, "PaLM 540B saw about 20 spikes in its whole run; more often than every 100 steps is instability, not bad data"),
)

EVALUATION: tuple[Limit, ...] = (
    Limit("perplexity", "heldout_loss_fell_clearly", "loss_fall", 0.5, None, True, "nats per token from the first checkpoint to the last; even a demo of some hundred steps falls by more than 2, " "so a smaller fall means that training, export or tokens do not belong together (assumption, not measured)"),
    Limit("perplexity", "model_beats_unigram_baseline", "gain_over_unigram", 0.01, None, True, "a model that predicts no better than token counts has learned nothing from context"),
    Limit("perplexity", "heldout_text_is_large_enough", "heldout_tokens", 2000, None, False, "tokens; below this the loss moves by more than 0.1 nats with the choice of documents (rule of thumb)"),
    Limit("perplexity", "last_checkpoint_is_near_the_best", "rise_above_best", None, 0.1, False, "nats per token above the best checkpoint: more looks like overfitting on repeated documents"),
    Limit("probability_probes", "target_probability_rose", "log_probability_rise", 0.2, None, True, "nats per token, first to last checkpoint: ordinary sentences must become more probable while a model learns"),
    Limit("probability_probes", "more_probes_pass_than_by_chance", "pass_rate", 0.5, None, False, "share of judged probes; a coin passes half of them"),
    Limit("needle_in_haystack", "answer_probability_rose", "answer_log_probability_rise", 0.0, None, True, "nats per token, first to last checkpoint: well-formed answers must not become less probable"),
    Limit("needle_in_haystack", "context_was_used", "gain_over_control", 0.05, None, False, "share found above the same questions without the needle; a model of a few million parameters may fail this"),
    Limit("release_card", "card_has_all_sections", "missing_sections", None, 0, True, "a card with holes is no record"),
    Limit("release_card", "every_checkpoint_has_a_score", "unscored_checkpoints", 0, 0, True, "the trend on the card must be that of the checkpoints on the card"),
    Limit("release_card", "every_input_is_pinned", "unpinned_inputs", None, 0, True, "each number on the card must be traceable to a version of its table"),
    Limit("release_card", "licences_are_stated", "unlicensed_share", None, 0.05, False, "share of training documents without a stated licence, to be looked at before anybody shares the weights"),
)

LINEAGE: tuple[Limit, ...] = (
    Limit("lineage_index", "every_use_has_a_document", "uses_without_document", None, 0, True, "a training step that cannot name its page breaks the chain that lineage is for"),
    Limit("lineage_index", "checkpoints_have_scores", "checkpoints_without_score", None, 0, False, "a run is evaluated at all its checkpoints; one without a score is still being evaluated, or never was"),
    Limit("lineage_audit", "no_rule_is_violated", "violations", None, 0, True, "one held-out document in a training sequence makes every score of that run worthless"),
    Limit("lineage_audit", "nothing_read_was_found_contaminated_later", "found_later", None, 0, False, "new evaluation items can be found in what an old run has read: its scores on them measure memory"),
)

# fmt: on

LIMITS: tuple[Limit, ...] = SOURCES + DOCUMENTS + DEDUP + TOKENIZER + MIXTURE + TRAINING + EVALUATION + LINEAGE
