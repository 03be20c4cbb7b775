"""The definitions of the project's modules, what each refers to, and a digest of each that says all it stands on.

The digest of a definition is over its normal form (normal_form.py), with every reference replaced by the digest of
what it refers to; definitions that refer to each other in a circle get one together (a Merkle tree over strongly
connected components). No module name goes in: code that is moved, or a module that is split, keeps its digests.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from orchestration.identity.normal_form import NormalForm, Reference, Token, is_docstring

WHOLE = "*"
"""As the name in a reference: all definitions of the module."""

EFFECTS = "(effects)"
"""As the name in a reference: statements of the module that define nothing."""

OUTSIDE = "OUTSIDE_THE_DATA"
"""A module that assigns this (a sentence that says why) draws, or decides where to run; no byte of the data is its."""


@dataclass(frozen=True)
class Imported:
    """What a name that an import binds stands for."""

    module: str
    attribute: str | None
    types_only: bool = False
    """Seen by type checkers, never executed."""


@dataclass(eq=False)
class Module:
    """A parsed module."""

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Imported] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


@dataclass(frozen=True)
class Definition:
    """The normal form of a definition and the libraries that it names."""

    tokens: tuple[Token, ...]
    libraries: frozenset[str]

    @cached_property
    def references(self) -> list[Reference]:
        """In order of appearance, each once."""
        return list(dict.fromkeys(token for token in self.tokens if isinstance(token, Reference)))


class CodeGraph:
    """Reads modules below `root` as they are asked for; an object of one moment, for it keeps what it read."""

    def __init__(self, root: Path, packages: Iterable[str]) -> None:
        """`packages`: the top-level names that are ours."""
        self.root, self.packages = root, frozenset(packages)
        self._files: dict[str, Path | None] = {}
        self._modules: dict[str, Module] = {}
        self._definitions: dict[Reference, Definition] = {}
        self._digests: dict[Reference, str] = {}

    def module(self, name: str) -> Module:
        """The parsed module; ModuleNotFoundError if there is no such file."""
        if name not in self._modules:
            path = self._file(name)
            if path is None:
                raise ModuleNotFoundError(f"{name}: no such module in {self.root}; stages.py or an import names it")
            self._modules[name] = read_module(name, path)
        return self._modules[name]

    def is_module(self, name: str) -> bool:
        """Whether a dotted name is a module of ours."""
        return self._file(name) is not None

    def word(self, text: str) -> Token | None:
        """What a string means that names a module of ours, or a definition in one; None for any other."""
        if self.is_module(text):
            return "module"
        module, _, name = text.rpartition(".")
        if name.isidentifier() and self.is_module(module) and name in self.module(module).definitions:
            return Reference(module, name)
        return None

    def _file(self, name: str) -> Path | None:
        if name.partition(".")[0] not in self.packages:
            return None
        if name not in self._files:
            base = self.root.joinpath(*name.split("."))
            found = [path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()]
            self._files[name] = found[0] if found else None
        return self._files[name]

    def definition(self, reference: Reference) -> Definition:
        """The normal form of what a reference means."""
        if reference not in self._definitions:
            self._definitions[reference] = self._read(reference)
        return self._definitions[reference]

    def _read(self, reference: Reference) -> Definition:
        module = self.module(reference.module)
        if reference.name == WHOLE:
            parts: list[Token] = [Reference(module.name, name) for name in sorted(module.definitions)]
            parts += [token for name in sorted(module.imports) for token in self._imported(module, name)]
            return Definition((*parts, Reference(module.name, EFFECTS)), frozenset())
        reader = _Reader(self, module)
        statements = module.effects if reference.name == EFFECTS else module.definitions[reference.name]
        for statement in statements:
            reader.form.visit(statement)
        return Definition(tuple(reader.form.tokens), frozenset(reader.libraries))

    def _imported(self, module: Module, name: str) -> list[Token]:
        """What a whole module takes from other modules of ours counts, used or handed on."""
        token, _ = self.resolve(module.imports[name], ())
        return [token] if isinstance(token, Reference) and token.name != WHOLE else []

    def resolve(self, imported: Imported, attributes: tuple[str, ...]) -> tuple[Token, int]:
        """What an imported name with the attributes after it refers to, and how many of them that took."""
        if imported.types_only:
            return f"type {imported.attribute or imported.module}", 0
        name, left, taken = imported.module, list(attributes), 0
        if imported.attribute is not None:
            left.insert(0, imported.attribute)
            taken = -1
        if name.partition(".")[0] not in self.packages:
            return f"library {'.'.join([name, *left[:1]] if imported.attribute else [name])}", 0
        while True:
            if not left:
                outside = OUTSIDE in self.module(name).definitions
                return ("outside module" if outside else Reference(name, WHOLE)), taken
            word = left.pop(0)
            taken += 1
            if self.is_module(f"{name}.{word}"):
                name = f"{name}.{word}"
                continue
            module = self.module(name)
            if OUTSIDE in module.definitions:
                return f"outside {word}", taken
            if word in module.definitions:
                return Reference(name, word), taken
            if word in module.imports:
                token, more = self.resolve(module.imports[word], tuple(left))
                return token, taken + more
            if word.startswith("__"):
                return f"module.{word}", taken
            raise ImportError(f"{name} defines no {word!r}, which another module takes from it")

    def digest(self, reference: Reference) -> str:
        """64 hex characters over the definition and all that it refers to."""
        if reference not in self._digests:
            for component in self._components(reference):
                self._digest_component(component)
        return self._digests[reference]

    def _digest_component(self, component: list[Reference]) -> None:
        inside = set(component)
        own = {each: self._hash(self.definition(each).tokens, inside) for each in component}
        if len(component) == 1:
            self._digests |= own
            return
        together = hashlib.sha256("\n".join(sorted(own.values())).encode()).hexdigest()
        for each in component:
            self._digests[each] = hashlib.sha256(f"{together} {own[each]}".encode()).hexdigest()

    def _hash(self, tokens: Iterable[Token], inside: set[Reference]) -> str:
        hasher = hashlib.sha256()
        for token in tokens:
            if not isinstance(token, Reference):
                text = token
            elif token in inside:
                text = f"circle {token.name}"
            else:
                text = f"digest {self._digests[token]}"
            hasher.update(text.encode() + b"\n")
        return hasher.hexdigest()

    def own_digest(self, reference: Reference) -> str:
        """Over the definition alone: what it refers to counts by name. Tells which of two modules was changed."""
        words = [f"name {t.name}" if isinstance(t, Reference) else t for t in self.definition(reference).tokens]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def reached(self, roots: Iterable[Reference]) -> list[Reference]:
        """The roots and all that they refer to, directly or through others, with the effects of their modules."""
        seen: dict[Reference, None] = {}
        todo = list(roots)
        while todo:
            reference = todo.pop()
            if reference in seen:
                continue
            seen[reference] = None
            todo.extend(self.definition(reference).references)
            todo.append(Reference(reference.module, EFFECTS))
        return sorted(seen)

    def _components(self, root: Reference) -> Iterator[list[Reference]]:
        """Strongly connected components that `root` reaches and that have no digest yet, what is referred to first
        (Tarjan 1972, without recursion)."""
        index: dict[Reference, int] = {}
        low: dict[Reference, int] = {}
        path: list[Reference] = []
        on_path: set[Reference] = set()
        work: list[tuple[Reference, Iterator[Reference]]] = []

        def enter(reference: Reference) -> None:
            index[reference] = low[reference] = len(index)
            path.append(reference)
            on_path.add(reference)
            work.append((reference, iter(self.definition(reference).references)))

        enter(root)
        while work:
            reference, following = work[-1]
            for other in following:
                if other in self._digests:
                    continue
                if other not in index:
                    enter(other)
                    break
                if other in on_path:
                    low[reference] = min(low[reference], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[reference])
                if low[reference] == index[reference]:
                    at = path.index(reference)
                    component = path[at:]
                    del path[at:]
                    on_path.difference_update(component)
                    yield component


class _Reader:
    """What names mean in one module, for the normal form of one definition."""

    def __init__(self, graph: CodeGraph, module: Module) -> None:
        self._graph, self._module = graph, module
        self.libraries: set[str] = set()
        self.form = NormalForm(self._name, self._import, graph.word)

    def _name(self, name: str, attributes: tuple[str, ...]) -> tuple[Token | None, int]:
        if name in self._module.definitions:
            return Reference(self._module.name, name), 0
        if name in self._module.imports:
            return self._resolve(self._module.imports[name], attributes)
        return None, 0

    def _import(
        self, node: ast.Import | ast.ImportFrom, alias: ast.alias, attributes: tuple[str, ...]
    ) -> tuple[Token, int]:
        return self._resolve(imported_by(node, alias, self._module), attributes)

    def _resolve(self, imported: Imported, attributes: tuple[str, ...]) -> tuple[Token, int]:
        top_level = imported.module.partition(".")[0]
        if top_level not in self._graph.packages:
            self.libraries.add(top_level)
        return self._graph.resolve(imported, attributes)


def read_module(name: str, path: Path) -> Module:
    """Parse a file and sort its statements into definitions, imports and effects."""
    module = Module(name, path.name == "__init__.py")
    for statement in ast.parse(path.read_bytes(), filename=str(path)).body:
        _sort_in(module, statement, types_only=False)
    return module


def _sort_in(module: Module, statement: ast.stmt, *, types_only: bool) -> None:
    if is_docstring(statement) or _is_main(statement):
        return
    if isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            bound = alias.asname or alias.name.partition(".")[0]
            module.imports[bound] = imported_by(statement, alias, module, types_only=types_only)
    elif isinstance(statement, ast.If) and _is_type_checking(statement.test):
        for each in statement.body:
            _sort_in(module, each, types_only=True)
    elif names := _names_bound(statement):
        for bound in names:
            if bound != "__all__":
                module.definitions.setdefault(bound, []).append(statement)
    else:
        module.effects.append(statement)


def _names_bound(statement: ast.stmt) -> list[str]:
    """Names that a statement gives a value, or a part of one (`TABLE["key"] = 1`)."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        named = (node.value if isinstance(node, ast.Subscript | ast.Attribute) else node for node in _flat(targets))
        return [node.id for node in named if isinstance(node, ast.Name)]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    inner = [each for each in ast.iter_child_nodes(statement) if isinstance(each, ast.stmt)]
    inner += [s for each in getattr(statement, "handlers", []) for s in each.body]
    return list(dict.fromkeys(name for each in inner for name in _names_bound(each)))


def _flat(targets: Sequence[ast.expr]) -> Iterator[ast.expr]:
    for target in targets:
        if isinstance(target, ast.Tuple | ast.List):
            yield from _flat(target.elts)
        else:
            yield target


def _is_main(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":` is not executed by who imports the module."""
    test = statement.test if isinstance(statement, ast.If) else None
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_by(
    statement: ast.Import | ast.ImportFrom, alias: ast.alias, module: Module, *, types_only: bool = False
) -> Imported:
    """What the name bound by one alias stands for; `import a.b` binds `a`, `import a.b as c` binds `a.b`."""
    if isinstance(statement, ast.Import):
        return Imported(alias.name if alias.asname else alias.name.partition(".")[0], None, types_only)
    return Imported(_absolute(statement, module), alias.name, types_only)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])
