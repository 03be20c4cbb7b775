"""Files as captures: same table, same digest anywhere, nothing from outside the root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from assets.sources.defs import raw_crawl
from assets.sources.files import resolve_root
from assets.sources.warc import WarcFolder, iter_payloads, read_payload
from orchestration.identity.digest import data_version
from tests.builds import make_build, segment_of

CRAWL = "code@20260101T000000Z"


def tree(folder: Path) -> Path:
    """A small project with what must be left out."""
    (folder / "包").mkdir(parents=True)
    (folder / "a.py").write_text("print('源')\n", encoding="utf-8")
    (folder / "b.py").write_text("x = 1\n" * 100)
    (folder / "empty.py").write_text("")
    (folder / "包" / "c.py").write_text("y = 2\n")
    (folder / "notes.md").write_text("# notes\n")
    (folder.parent / "secret.py").write_text("key = 1\n")
    (folder / "link.py").symlink_to(folder.parent / "secret.py")
    return folder


def table(root: Path | str, **changes: Any) -> dict[str, Any]:
    base = {"kind": "files", "licence": "MIT", "domain": "code", "format": "code", "root": str(root)}
    return base | {"include": ["**/*.py"], "exclude": []} | changes


def run(folder: Path, source: dict[str, Any]) -> tuple[dict[str, str | None], str, Any]:
    build = make_build(folder, "raw_crawl", recipes={"sources": source}, partition=CRAWL)
    report = raw_crawl(build)
    segment = segment_of(build.output, "raw_crawl", CRAWL)
    reasons = {row["url"]: row["drop_reason"] for row in segment.table("captures").to_pylist()}
    return reasons, data_version(build.output, report.volatile_files)[0], segment


def test_files_are_named_below_the_source(tmp_path: Path) -> None:
    root = tree(tmp_path / "one")
    reasons, _, segment = run(tmp_path / "build", table(root))
    assert reasons == {
        "file:///code/a.py": None,
        "file:///code/b.py": None,
        "file:///code/empty.py": "empty_body",
        "file:///code/%E5%8C%85/c.py": None,
    }
    payloads = {row["url"]: payload for row, payload in iter_payloads(segment)}
    assert payloads["file:///code/a.py"] == "print('源')\n".encode()
    assert str(tmp_path) not in segment.path("captures.parquet").read_bytes().decode("latin-1")


def test_the_digest_does_not_depend_on_file_times(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    _, first, _ = run(tmp_path / "b1", table(root))
    for path in root.rglob("*.py"):
        path.touch()
    _, second, _ = run(tmp_path / "b2", table(root))
    assert first == second
    (root / "a.py").write_text("changed\n")
    assert run(tmp_path / "b3", table(root))[1] != first


def test_limits_cut_in_path_order(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    assert run(tmp_path / "b1", table(root, max_files=2))[0]["file:///code/empty.py"] == "page_limit"
    assert run(tmp_path / "b2", table(root, max_bytes_per_file=500))[0]["file:///code/b.py"] == "too_large"
    assert run(tmp_path / "b3", table(root, max_bytes=616))[0]["file:///code/%E5%8C%85/c.py"] == "byte_limit"
    assert "file:///code/b.py" not in run(tmp_path / "b4", table(root, exclude=["b.*"]))[0]


def test_roots(tmp_path: Path) -> None:
    assert (resolve_root("stdlib:", "s") / "json").is_dir()
    assert resolve_root("package:pydantic", "s").name == "pydantic"
    with pytest.raises(BuildError, match="no distribution 'no-such-thing' is installed"):
        resolve_root("package:no-such-thing", "s")
    with pytest.raises(BuildError, match="is not a folder"):
        resolve_root(str(tmp_path / "absent"), "s")


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="kept nothing"):
        run(tmp_path / "b", table(tree(tmp_path / "tree"), include=["*.rs"]))


def test_a_full_warc_file_is_followed_by_another(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    with WarcFolder(tmp_path, {"software": "test"}, file_bytes=1000) as warc:
        places = [
            warc.write_resource(f"file:///x/{n}", "text/plain", f"{n} 号\n".encode() * 50, datetime.now(UTC))
            for n in range(8)
        ]
    assert len({place.file for place in places}) > 1
    for n, place in enumerate(places):
        assert read_payload(tmp_path / place.file, place.offset, place.length) == f"{n} 号\n".encode() * 50
    with pytest.raises(BuildError, match="no WARC record"):
        read_payload(tmp_path / places[0].file, 10**9, 10)
