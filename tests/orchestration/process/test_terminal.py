"""What a page, an address or an error says cannot steer the terminal, break a command, or pass for our own style."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from assets.lineage.queries import DocumentHistory
from orchestration.cli import lineage_query
from orchestration.cli.render import tables
from orchestration.process.progress import terminal
from orchestration.process.terminal import SafeConsole, console, emit, quoted, visible
from orchestration.store.contract import CommitInfo

REPOSITORY = Path(__file__).resolve().parents[3]
ATTACKS = {
    "\x1b[31mred\x1b[0m": "red",
    "\x1b[2J\x1b[1;1Hcleared": "cleared",
    "\x9b2Jcleared": "cleared",
    "\x1b]0;title\x07after": "after",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\": "link",
    "\x1b]52;c;cm0gLXJm\x07clipboard": "clipboard",
    "\x9d0;title\x9cafter": "after",
    "\x1bP+q544e\x1b\\after": "after",
    "\x1bcreset": "reset",
    "\x1b(0box": "box",
    "torn \x1b": "torn ",
    "torn \x1b]0;no end": "torn 0;no end",
    "\x1b]0;a\nb\x07": "0;a\nb",
    "over\rwritten\b\x00\x7f": "overwritten",
    "exe\u202egpj.txt": "exegpj.txt",
    "name \udcff": "name \ufffd",
}
KEPT = "中文，naïve\tテスト\n👩‍🚀 [/b] [link=http://x]y[/link]"


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_terminal_obeys_is_left_out(attack: str) -> None:
    assert visible(f"a {attack} z") == f"a {ATTACKS[attack]} z" or attack.startswith("torn")
    shown = visible(f"{attack}")
    assert shown == ATTACKS[attack]
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]


def test_everything_else_stays() -> None:
    assert visible(KEPT) == KEPT


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_console_prints_our_styles_and_nothing_of_theirs(attack: str) -> None:
    out = SafeConsole(file=io.StringIO(), force_terminal=True, width=300, color_system="standard", highlight=False)
    grid = Table("column", box=None)
    grid.add_row(attack)
    out.print("[red]ours[/]")
    ours = out.file.getvalue()  # type: ignore[attr-defined]
    assert ours == "\x1b[31mours\x1b[0m\n"
    out.print(attack, markup=False)
    out.print(grid)
    added = out.file.getvalue().removeprefix(ours).replace("\x1b[1m", "").replace("\x1b[0m", "")  # type: ignore[attr-defined]
    assert "".join(c for c in added if ord(c) < 32 or 127 <= ord(c) < 160).strip("\n") == ""
    added.encode()


@pytest.mark.parametrize(
    "hostile", ["[\x00/b]", "\x1b[/b]", "\\\x1b[/b]", "[\x1b[0m/b]", "\x1b\\[/b]", "[link=http://x]\x1bx"]
)
def test_nothing_that_is_left_out_makes_a_tag_of_the_rest(hostile: str) -> None:
    out = SafeConsole(file=io.StringIO(), force_terminal=True, width=300, color_system="standard", highlight=False)
    out.print(f"[red]{quoted(hostile)}[/]")
    assert out.file.getvalue() == f"\x1b[31m{visible(hostile)}\x1b[0m\n"  # type: ignore[attr-defined]


def test_bars_and_lines_show_an_address_as_it_is() -> None:
    for force in (False, True):
        out = SafeConsole(file=io.StringIO(), force_terminal=force, width=200)
        with terminal(out) as progress:
            progress.start("raw_crawl[web@20260101T000000Z]")
            progress.update(1, 2, "http://x/[/b]\x1b[2J")
            progress.finish("http://x/[/b][red]\x1b]0;t\x07")
        shown = out.file.getvalue()  # type: ignore[attr-defined]
        assert "raw_crawl[web@20260101T000000Z]" in shown
        assert "http://x/[/b][red]" in shown
        assert "\x1b]" not in shown
        assert "[2J" not in shown


def test_tables_and_lineage_show_what_a_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "http://x/[/b]\x1b[2J\x9b1m"
    tables.log([CommitInfo("0" * 40, (), hostile, {}, "2026")], more=False, as_json=False)
    history = DocumentHistory("ab", hostile, "s", "s@1", True, "filter", hostile, None, [])
    lineage_query._print_history(history, tables.console())
    shown = capsys.readouterr().out
    assert shown.count("http://x/[/b]") == 3
    assert not {"\x1b", "\x9b"} & set(shown)


@pytest.mark.parametrize("attack", ATTACKS)
def test_json_stays_data_and_steers_nothing(attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit({"title": attack, "kept": KEPT})
    text = capsys.readouterr().out
    assert json.loads(text) == {"title": attack, "kept": KEPT}
    assert "中文" in text
    assert not [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"]
    text.encode()


def test_an_error_that_quotes_a_page_is_harmless(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestration.cli", "store", "copy", f"{tmp_path}/\x1b]0;t\x07no[/b]", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 1
    assert "no[/b]" in done.stderr
    assert "\x1b" not in done.stderr


def test_the_traceback_of_a_bug_is_harmless() -> None:
    program = (
        "import orchestration.cli.app as c\n"
        "def broken(): raise RuntimeError('page \\x1b]0;t\\x07says')\n"
        "c.app = broken\n"
        "c.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 1
    assert "RuntimeError: page says" in done.stderr
    assert "\x1b" not in done.stderr


def test_nothing_else_prints() -> None:
    """One way out: no other console, no `print`, no rich Progress without ours."""
    found = []
    for path in sorted((REPOSITORY / "orchestration").rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("typer.echo", "click.echo", "sys.stdout"):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
    assert isinstance(console(), SafeConsole)
