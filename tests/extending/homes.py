"""A home with one folder of text pages: enough for a build up to the token shards, in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.end_to_end.harness import CONFIG, Home
from tests.end_to_end.site import body
from tests.histories.building import write_config

PAGES = 24


def small_home(folder: Path) -> Home:
    """The source `site` is the folder `site` of the home's root."""
    site = folder / "site"
    site.mkdir(parents=True)
    for number in range(PAGES):
        text = "\n\n".join(body("en", f"page-{number}"))
        (site / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    write_config(folder / "config", folder, {}, {"site": "text"}, workers=1)
    (folder / "config/models").mkdir()
    shutil.copy(CONFIG / "models/tiny.toml", folder / "config/models")
    shutil.copy(
        CONFIG / "recipes/tiny.toml", folder / "config/recipes/demo.toml"
    )  # the recipe of a bare `headwater run`
    return Home(folder, 0)
