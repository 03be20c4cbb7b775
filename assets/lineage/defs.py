"""The assets of lineage: inputs in, tables and report out."""

from __future__ import annotations

from pydantic import BaseModel

from assets import schemas
from assets.build import Build, StageReport
from assets.lineage import audit, index
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {}


def lineage_index(build: Build) -> StageReport:
    """Who read what, when, and with which result, over all runs."""
    index.refuse_two_of_a_run(build.inputs)
    with index.connect(build.scratch, build.workers) as connection:
        documents = index.documents_table(build.one("corpus"))
        uses = index.uses_table(
            build.all("order_manifest"), build.all("mixture_manifest"), build.all("base_checkpoints"), connection
        )
        amendments = index.amendments_table(build.all("base_checkpoints"))
    checkpoints = index.checkpoints_table(build.all("base_checkpoints"), build.all("perplexity"))
    write_table(build.output, "documents", documents, schemas.LINEAGE_DOCUMENTS)
    write_table(build.output, "uses", uses, schemas.LINEAGE_USES)
    write_table(build.output, "checkpoints", checkpoints, schemas.LINEAGE_CHECKPOINTS)
    write_table(build.output, "amendments", amendments, schemas.LINEAGE_AMENDMENTS)
    return index.report(documents, uses, checkpoints)


def lineage_audit(build: Build) -> StageReport:
    """Every rule on every run."""
    build.one("lineage_index")
    with index.connect(build.scratch, build.workers) as connection:
        findings, report = audit.audit(build.inputs, connection)
    write_table(build.output, "findings", findings, schemas.AUDIT)
    return report
