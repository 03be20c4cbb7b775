"""A home with sources of text files, brought up to date by the real driver in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestration.catalog import Catalog, read_catalog
from orchestration.driver import Options
from orchestration.runner import run_to_date
from orchestration.status import Status, walk
from orchestration.workplace import Workplace, open_workplace
from tests.end_to_end.harness import CONFIG
from tests.histories.building import write_config
from tests.histories.world import render


@dataclass
class Nights:
    """The sources are folders: one that is taken away is a dead server."""

    folder: Path
    sources: tuple[str, ...]

    @classmethod
    def create(cls, folder: Path, monkeypatch: pytest.MonkeyPatch, *sources: str, pages: int = 6) -> Nights:
        """Sources in the order of sources.toml, each with its own pages."""
        found = cls(folder, sources)
        write_config(folder / "config", folder / "sites", {}, dict.fromkeys(sources, "text"), 1)
        (folder / "config/models").mkdir()
        for name in ("recipes/tiny.toml", "models/tiny.toml"):
            shutil.copy(CONFIG / name, folder / "config" / name)
        for number, source in enumerate(sources):
            for page in range(pages):
                found.write(source, page, f"en {10 * number + page}")
        (folder / "state").mkdir()
        found.enter(monkeypatch)
        return found

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it the home of this process."""
        monkeypatch.setattr("assets.plots._png", lambda figure: b"")
        monkeypatch.delenv("HEADWATER_STORE", raising=False)
        monkeypatch.setenv("HEADWATER_HOME", str(self.folder / "state"))
        monkeypatch.setenv("HEADWATER_CONFIG", str(self.folder / "config"))
        monkeypatch.setenv("DAGSTER_HOME", str(self.folder / "state" / "dagster"))

    def write(self, source: str, page: int, content: str) -> None:
        """One page, made of `content` as in tests/histories."""
        site = self.folder / "sites" / source
        site.mkdir(parents=True, exist_ok=True)
        (site / f"{page:02d}.txt").write_bytes(render(content, "text"))

    def kill(self, source: str) -> None:
        """The source does not answer any more."""
        (self.folder / "sites" / source).rename(self.folder / f"dead-{source}")

    def revive(self, source: str) -> None:
        """The source answers again, as it was."""
        (self.folder / f"dead-{source}").rename(self.folder / "sites" / source)

    @property
    def workplace(self) -> Workplace:
        """Opened anew, as each command does."""
        return open_workplace()

    def run(self, *recrawl: str, at: str | None = None, abandon: tuple[str, ...] = ()) -> None:
        """`headwater run --no-train`."""
        options = Options("tiny", recrawl=recrawl, train=False, at=at, abandon=abandon)
        run_to_date(self.workplace, options, as_json=True)

    def catalog(self) -> Catalog:
        """What is published."""
        return read_catalog(self.workplace.store)

    def status(self) -> Status:
        """The state of everything."""
        return walk(self.catalog(), self.workplace.config)

    def documents(self) -> dict[str, int]:
        """Source -> documents of it that are in the corpus."""
        from orchestration.catalog import segment

        manifest = self.catalog().manifests["corpus", None]
        rows = segment(self.workplace.store, "main", manifest).table("documents", ["source"]).to_pylist()
        return {name: sum(row["source"] == name for row in rows) for name in self.sources}
