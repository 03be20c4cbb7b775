"""What every source declares, whatever its kind."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

_CRON = re.compile(r"[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}")


class SourceTable(BaseModel):
    """Keys that every kind has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str = Field(min_length=1)  # SPDX identifier, or a sentence where there is none
    domain: str = Field(
        pattern=r"[a-z][a-z_]*"
    )  # documentation | code | news | encyclopedia | ...: a channel of the mixture
    format: Literal["auto", "html", "text", "code"]  # how extraction reads the payloads; auto: by their content type
    description: str = ""
    schedule: str | None = None  # cron, 5 fields, UTC; None = crawled by hand

    @field_validator("schedule")
    @classmethod
    def _five_cron_fields(cls, value: str | None) -> str | None:
        if value is not None and not _CRON.fullmatch(value):
            raise ValueError(f"{value!r} is not a cron line of five fields, like '0 3 * * 1'")
        return value
