"""Who may import whom. The tree is the architecture: these rules keep it from lying.

orchestration -> assets, quality · assets, quality, training -> only themselves. training/ is another program, started by the
orchestration: what the others know of it is training/contract/, which needs the standard library and pydantic only.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from orchestration.stages import BY_NAME, GROUPS, STAGES

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_LINES = 400
TABLES = {"quality/thresholds.py", "assets/schemas.py"}
"""A row per limit, a row per column: read by looking up, not from top to bottom, and kept in one place by design."""

OURS: dict[str, set[str]] = {
    "orchestration": {"orchestration", "assets", "quality", "training.contract"},
    "assets": {"assets", "training.contract"},
    "quality": {"quality"},
    "training": {"training"},
}
"""Package -> packages and rooms of ours that it may import."""

THEIRS: dict[str, tuple[str, ...]] = {
    "dagster": ("orchestration/",),
    "dagster_pipes": ("orchestration/", "training/main.py"),
    "lakefs_client": ("orchestration/store/lakefs/api.py",),
    "lakefs_sdk": ("orchestration/store/lakefs/api.py",),
    "torch": ("training/", "assets/evaluation/"),
    "torchtitan": ("training/",),
}
"""Top-level module -> path prefixes that may import it. Any dagster_* not named here follows dagster."""

FLOORS: dict[str, list[str]] = {
    "orchestration": ["store", "process", "identity", "launch", "upkeep", "publish", "graph", "run", "doctor", "cli"],
    "training": ["contract", "machine", "model", "data", "watching", "checkpoints", "recovery"],
}
"""The rooms of a package from the ground up: a module may import its own room and those below, and what stands beside the
rooms where that is no higher. Only what stands beside the rooms of training/ (its program) imports all of them."""

BESIDE = {"orchestration": 0, "training": 99}
"""The floor of the modules beside the rooms: the list of stages and the configuration are the ground of orchestration/."""

MAX_MODULES = 15
"""Of one folder: more are not seen at a glance."""

HEAVY = ("torch", "torchtitan", "dagster", "datatrove", "scrapy", "transformers", "polars", "duckdb", "matplotlib")
"""What importing every defs.py must not load: the graph, the CLI and the doctor start with them."""


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    lazy: bool  # inside a function: paid for only when called


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every import of a file, relative ones resolved against `package` (dotted); `if TYPE_CHECKING` left out."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parent = package.split(".")[: -(child.level - 1) or None] if child.level else []
                base = ".".join([*parent, *([child.module] if child.module else [])])
                yield from (Import(f"{base}.{alias.name}", child.lineno, lazy) for alias in child.names)
            else:
                yield from walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from walk(ast.parse(source), lazy=False)


def broken_rules(path: str, source: str) -> list[str]:
    """Sentences naming file, line and rule for each import of one file that is not allowed."""
    package = path.partition("/")[0]
    problems = []
    for found in imports_of(source, ".".join(Path(path).parent.parts)):
        top = found.module.partition(".")[0]
        where = f"{path}:{found.line}: imports {found.module}"
        ours = any(f"{found.module}.".startswith(f"{allowed}.") for allowed in OURS[package])
        if top in OURS and not ours:
            problems.append(f"{where}; {package}/ may import only {', '.join(sorted(OURS[package]))} of ours")
        rule = top if top in THEIRS else "dagster" if top.startswith("dagster_") else None
        if rule and not path.startswith(THEIRS[rule]):
            problems.append(f"{where}; {rule} only in {', '.join(THEIRS[rule])}")
        if top in HEAVY and package == "assets" and path.endswith("/defs.py") and not found.lazy:
            problems.append(f"{where} at its top; import it inside the function that needs it")
    return problems


def files(*folders: str) -> list[str]:
    return sorted(
        path.relative_to(REPOSITORY).as_posix() for folder in folders for path in (REPOSITORY / folder).rglob("*.py")
    )


def test_no_file_imports_what_it_must_not() -> None:
    problems = [
        problem for path in files(*OURS) for problem in broken_rules(path, (REPOSITORY / path).read_text("utf-8"))
    ]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("assets/dedup/clusters.py", "import dagster", "dagster only in"),
        ("assets/dedup/clusters.py", "def f():\n    from dagster_graphql import x", "dagster only in"),
        ("assets/dedup/clusters.py", "from quality.outcome import Check", "assets/ may import only assets"),
        ("assets/dedup/clusters.py", "from training import job", "assets/ may import only assets"),
        (
            "assets/training/plan.py",
            "from training.model.llama import model_args",
            "may import only assets, training.contract",
        ),
        ("assets/dedup/clusters.py", "def f():\n    import torch", "torch only in"),
        ("assets/evaluation/defs.py", "import torch", "at its top"),
        ("quality/limits.py", "from assets import tables", "quality/ may import only quality"),
        ("training/job.py", "import dagster_pipes", "dagster_pipes only in"),
        ("training/main.py", "from orchestration import stages", "training/ may import only training"),
        ("orchestration/publish/publisher.py", "import training.main", "orchestration/ may import only"),
        ("orchestration/publish/publisher.py", "import lakefs_client", "lakefs_client only in"),
        ("orchestration/publish/publisher.py", "def f():\n    import torch.cuda", "torch only in"),
    ],
)
def test_a_forbidden_import_is_named_with_its_rule(path: str, source: str, rule: str) -> None:
    problems = broken_rules(path, source)
    assert len(problems) == 1
    assert rule in problems[0]
    assert problems[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "orchestration/publish/publisher.py",
            "import dagster\nfrom assets.build import Build\nfrom quality import outcome",
        ),
        ("training/main.py", "from dagster_pipes import open_dagster_pipes\nfrom .job import run\nimport torch"),
        ("assets/evaluation/scoring.py", "def f():\n    import torch"),
        ("assets/training/plan.py", "from training.contract.rules import Layout"),
        ("orchestration/launch/watch.py", "from training.contract import outputs"),
        ("assets/dedup/clusters.py", "from ..build import Build\nfrom . import signatures"),
        ("assets/dedup/clusters.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_an_allowed_import_is_allowed(path: str, source: str) -> None:
    assert broken_rules(path, source) == []


def test_relative_imports_are_resolved() -> None:
    found = [item.module for item in imports_of("from ..build import Build\nfrom . import a\nfrom .b import c", "x.y")]
    assert found == ["x.build.Build", "x.y.a", "x.y.b.c"]


def test_importing_every_defs_loads_nothing_heavy() -> None:
    modules = [f"assets.{group}.defs" for group in GROUPS if (REPOSITORY / f"assets/{group}/defs.py").exists()]
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [], f"loaded by importing {', '.join(modules)}"


def floor_of(module: str) -> int:
    """The floor of a module of a package with floors, counted from 1; BESIDE's for one that is in no room."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return FLOORS[package].index(room) + 1 if room in FLOORS[package] else BESIDE[package]


def climbing(path: str, source: str) -> list[str]:
    """Imports of one file from a higher floor."""
    package = Path(path).parts[0]
    here = ".".join(Path(path).with_suffix("").parts)
    return [
        f"{path}:{found.line}: imports {found.module}, which stands above it: {' < '.join(FLOORS[package])}"
        for found in imports_of(source, ".".join(Path(path).parent.parts))
        if found.module.partition(".")[0] == package and floor_of(found.module) > floor_of(here)
    ]


def test_a_room_imports_what_is_below_it() -> None:
    problems = [each for path in files(*FLOORS) for each in climbing(path, (REPOSITORY / path).read_text("utf-8"))]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("orchestration/store/contract.py", "from orchestration.config import home_folder", True),
        ("orchestration/store/contract.py", "def f():\n    from orchestration.graph import sensors", False),
        ("orchestration/config.py", "from orchestration.launch.local import started", False),
        ("training/contract/request.py", "from training.model.llama import model_args", False),
        ("training/data/opening.py", "from training.contract.request import TrainRequest", True),
        ("training/recovery/reactions.py", "from training.trainer import OrderedTrainer", False),
        ("training/main.py", "from training.recovery.reactions import Recovery", True),
    ],
)
def test_an_import_from_above_is_found(path: str, source: str, allowed: bool) -> None:
    assert (climbing(path, source) == []) == allowed


def test_the_contract_needs_nothing_heavy() -> None:
    allowed = {"pydantic", "__future__", *sys.stdlib_module_names}
    problems = [
        f"{path}: {found.module}"
        for path in files("training/contract")
        for found in imports_of((REPOSITORY / path).read_text("utf-8"), "training.contract")
        if found.module.partition(".")[0] not in allowed and not found.module.startswith("training.contract.")
    ]
    assert problems == []


def test_no_import_goes_round_in_a_circle() -> None:
    """Also not one that is for types only, or inside a function."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files(*OURS)}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for module, path in modules.items():
        source = (REPOSITORY / path).read_text("utf-8").replace("if TYPE_CHECKING:", "if True:")
        for found in imports_of(source, ".".join(Path(path).parent.parts)):
            names = found.module.split(".")
            known = (".".join(names[:n]) for n in range(len(names), 0, -1))
            other = next((name for name in known if name in modules), module)
            if other != module:
                sorter.add(module, other)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_folder_holds_more_than_is_seen_at_a_glance() -> None:
    counts = Counter(str(Path(path).parent) for path in files(*OURS) if not path.endswith("__init__.py"))
    crowded = {folder: count for folder, count in counts.items() if count > MAX_MODULES}
    assert not crowded, f"over {MAX_MODULES} modules, make rooms: {crowded}"


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {
        path: len((REPOSITORY / path).read_text("utf-8").splitlines()) for path in files(*OURS, "tests", "benchmarks")
    }
    too_long = {path: lines for path, lines in lengths.items() if lines > MAX_LINES and path not in TABLES}
    assert not too_long, f"over {MAX_LINES} lines, split them: {too_long}"


def test_every_edge_goes_forward() -> None:
    backward = [
        f"{stage.name} ({stage.group}) reads {edge.upstream} ({BY_NAME[edge.upstream].group})"
        for stage in STAGES
        for edge in stage.inputs
        if GROUPS.index(BY_NAME[edge.upstream].group) > GROUPS.index(stage.group)
    ]
    assert not backward, backward


def test_stages_are_listed_in_the_order_in_which_they_run() -> None:
    assert [stage.group for stage in STAGES] == sorted((stage.group for stage in STAGES), key=GROUPS.index)
    for stage in STAGES:
        for edge in stage.inputs:
            earlier = BY_NAME[edge.upstream].sort_key < stage.sort_key
            assert earlier or edge.kind == "previous", f"{stage.name} is listed before its input {edge.upstream}"
