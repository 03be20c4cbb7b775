"""The code blocks of the docs, and a shell as a newcomer has it: a fresh clone, no variables, the system's PATH.

A block is run unless the line above it says why not, where a reader of the page does not see it:

    <!-- takes minutes: what takes them -->
    <!-- not run: what it needs that is not here -->
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import CONFIG, REPOSITORY

BLOCK = re.compile(
    r"(?:^<!-- (?P<why>takes minutes|not run): (?P<reason>.+?) -->\n)?^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("sh", "console")
FINDINGS = 3
"""Exit code of a command that found something to tell of, for instance that a stage is stale: no failure."""
SETTINGS = "trap 'code=$?; [ $code = 3 ] || { echo \"exit $code: $BASH_COMMAND\" >&2; exit 90; }' ERR\nset -E\n"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    reason: str | None
    """Why it is not run."""

    def typed(self) -> str:
        """What a person types: all of an `sh` block, the lines after `$ ` of a `console` block."""
        if self.language == "console":
            return "".join(f"{line[2:]}\n" for line in self.text.splitlines() if line.startswith("$ "))
        return self.text


def blocks(page: Path) -> list[Block]:
    """In order."""
    return [
        Block(found["language"], found["text"], found["reason"])
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def script(page: Path) -> str:
    """All that is run of a page, in order."""
    return "".join(block.typed() for block in blocks(page) if block.language in SHELL and block.reason is None)


def fresh_clone(folder: Path) -> Path:
    """A clone with what is not committed yet, after `make venv`: the packages of this process, the clone's own code."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        (folder / name).unlink(missing_ok=True)
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    venv = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = [str(folder), *(path for path in sys.path if path.endswith("site-packages"))]
    (next(venv.glob("lib/python*/site-packages")) / "clone.pth").write_text("\n".join(packages) + "\n")
    for name in ("headwater", "torchrun"):
        _, _, body = Path(sys.executable).with_name(name).read_text(encoding="utf-8").partition("\n")
        (venv / "bin" / name).write_text(f"#!{venv}/bin/python\n{body}", encoding="utf-8")
        (venv / "bin" / name).chmod(0o755)
    return folder


def site_as_demo(config: Path) -> Path:
    """The tests' configuration under the demo's names, so that what the pages ask about the demo has an answer."""
    shutil.copytree(CONFIG, config, dirs_exist_ok=True)
    shutil.copy(config / "recipes/tiny.toml", config / "recipes/demo.toml")
    for path in (REPOSITORY / "config/models").glob("*.toml"):
        shutil.copy(path, config / "models")
    return config


def type_in(commands: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the commands in bash with nothing in its environment but these variables, HOME, PATH and TERM."""
    home = folder.parent / "person"
    home.mkdir(exist_ok=True)
    plain = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb"} | variables
    bash = ["/bin/bash", "--noprofile", "--norc", "-c", SETTINGS + commands]
    return subprocess.run(bash, cwd=folder, env=plain, capture_output=True, text=True, timeout=800)
