"""The assets of evaluation: inputs in, tables and report out."""

from __future__ import annotations

from itertools import chain

from pydantic import BaseModel

from assets import schemas
from assets.build import Build, StageReport
from assets.evaluation import needles, probes
from assets.evaluation import perplexity as heldout
from assets.evaluation import release_card as card
from assets.evaluation.card_page import as_markdown
from assets.evaluation.items import load_needles, load_probes
from assets.evaluation.scoring import for_each_checkpoint, list_checkpoints, model_config
from assets.evaluation.tokens import TokenReader, count_tokens, planned_documents, sequence_length
from assets.tables import write_table
from assets.tokenizer.encoding import end_of_text_id, load_tokenizer, token_dtype

RECIPES: dict[str, type[BaseModel]] = {
    "perplexity": heldout.PerplexityRecipe,
    "probes": probes.ProbesRecipe,
    "needles": needles.NeedlesRecipe,
}


def perplexity(build: Build) -> StageReport:
    """Held-out loss of each checkpoint, beside a unigram model."""
    recipe = build.recipe("perplexity", heldout.PerplexityRecipe)
    checkpoints = list_checkpoints(build.one("base_checkpoints"))
    order, tokenizer = build.one("order_manifest"), load_tokenizer(build.one("tokenizer").path("tokenizer.json"))
    end, dtype = end_of_text_id(tokenizer), token_dtype(tokenizer.get_vocab_size())
    config = model_config(checkpoints[-1])
    vocabulary = config["vocab_size"]
    window = min(sequence_length(order), config["max_position_embeddings"])

    chosen = heldout.choose_heldout(build.one("mixture_manifest"), recipe)
    doc_ids = [row["doc_id"] for row in chosen] + planned_documents(order)
    reader = TokenReader(build.one("token_shards"), doc_ids, dtype)
    documents = heldout.read_heldout(chosen, reader, recipe.max_tokens_per_document)
    unigram = heldout.unigram_losses(count_tokens(reader, order, vocabulary))

    scored = for_each_checkpoint(
        checkpoints,
        lambda checkpoint, scorer: heldout.score_rows(
            checkpoint,
            heldout.score_cells(documents, heldout.document_losses(scorer, documents, window, end), unigram),
        ),
        batch_tokens=recipe.batch_tokens,
        workers=build.workers,
        progress=build.progress,
    )
    rows = list(chain.from_iterable(scored))
    write_table(build.output, "perplexity", rows, schemas.PERPLEXITY)
    return heldout.report(rows, vocabulary)


def probability_probes(build: Build) -> StageReport:
    """Log probability of chosen targets and contrasts at each checkpoint."""
    recipe = build.recipe("probes", probes.ProbesRecipe)
    checkpoints = list_checkpoints(build.one("base_checkpoints"))
    chosen = probes.choose_probes(load_probes(), recipe)
    tokenizer = load_tokenizer(build.one("tokenizer").path("tokenizer.json"))
    end = end_of_text_id(tokenizer)

    scored = for_each_checkpoint(
        checkpoints,
        lambda checkpoint, scorer: probes.probe_rows(
            checkpoint, scorer, chosen, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, end
        ),
        batch_tokens=recipe.batch_tokens,
        workers=build.workers,
        progress=build.progress,
    )
    rows = list(chain.from_iterable(scored))
    write_table(build.output, "probes", rows, schemas.PROBES)
    return probes.report(rows, model_config(checkpoints[-1])["vocab_size"])


def needle_in_haystack(build: Build) -> StageReport:
    """Facts hidden at known depths of held-out text, asked of each checkpoint."""
    recipe = build.recipe("needles", needles.NeedlesRecipe)
    checkpoints = list_checkpoints(build.one("base_checkpoints"))
    tokenizer = load_tokenizer(build.one("tokenizer").path("tokenizer.json"))
    end, dtype = end_of_text_id(tokenizer), token_dtype(tokenizer.get_vocab_size())
    config = model_config(checkpoints[-1])
    lengths = needles.usable_lengths(recipe, config["max_position_embeddings"])
    chosen = [needle for needle in load_needles() if needle.language in recipe.languages]

    by_language = needles.haystack_documents(build.one("mixture_manifest"), recipe.languages)
    hay = {needle.id: needles.haystack_for(needle, by_language[needle.language], lengths[-1]) for needle in chosen}
    reader = TokenReader(build.one("token_shards"), set(chain.from_iterable(hay.values())), dtype)
    trials = [
        trial
        for needle in chosen
        for length in lengths
        for trial in needles.build_trials(
            needle,
            [reader.tokens(doc_id)[:-1] for doc_id in hay[needle.id]],
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            end,
            length,
            recipe.depths,
        )
    ]
    scored = for_each_checkpoint(
        checkpoints,
        lambda checkpoint, scorer: (checkpoint.step, *needles.needle_rows(checkpoint, scorer, trials)),
        batch_tokens=recipe.batch_tokens,
        workers=build.workers,
        progress=build.progress,
    )
    rows = list(chain.from_iterable(found for _, found, _ in scored))
    write_table(build.output, "needles", rows, schemas.NEEDLES)
    chance = sum(1 / (1 + len(needle.distractors)) for needle in chosen) / len(chosen)
    return needles.report(rows, {step: control for step, _, control in scored}, chance, config["vocab_size"])


def release_card(build: Build) -> StageReport:
    """The page that goes with the weights."""
    facts = card.collect(build.inputs)
    (build.output / "card.json").write_text(card.as_json(facts), encoding="utf-8")
    (build.output / "card.md").write_text(as_markdown(facts), encoding="utf-8")
    return card.report(facts)
