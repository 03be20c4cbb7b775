"""The normal form of a definition: what of its text can change what it does, and to what its names refer.

Left out are comments, docstrings, formatting, the names of local variables and of imports. A name of another
definition of the project becomes a `Reference`, a name of a library the place where it comes from, so that a
definition reads the same wherever it stands and however the module imports what it needs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

FRAMES_ARE_READ = frozenset({"locals", "vars", "dir", "eval", "exec"})
"""A function that calls one of these may see the names of its variables: they stay."""

SKIPPED_FIELDS = frozenset({"ctx", "type_comment", "kind", "lineno", "col_offset", "end_lineno", "end_col_offset"})
PLACES = frozenset({"parent", "parents", "resolve", "absolute"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


@dataclass(frozen=True, order=True)
class Reference:
    """A definition of the project, by the module that holds it."""

    module: str
    name: str


Token = str | Reference
Resolve = Callable[[str, tuple[str, ...]], tuple[Token | None, int]]
"""(name, attributes that follow it) -> what it refers to, None for a builtin, and how many of the attributes that took."""

ResolveImport = Callable[[ast.Import | ast.ImportFrom, ast.alias, tuple[str, ...]], tuple[Token, int]]
"""The same for a name that an import inside the definition binds."""

ResolveWord = Callable[[str], Token | None]
"""What a string that holds a dotted name means; None if it is any other string."""


def is_docstring(statement: ast.stmt) -> bool:
    """Any string that stands as a statement of its own."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@dataclass
class _Scope:
    kind: str  # function, comprehension or class
    bound: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    """Names that a caller, a subclass or a frame may see: parameters, attributes, nested definitions."""
    numbers: dict[str, int] = field(default_factory=dict)
    imports: dict[str, tuple[ast.Import | ast.ImportFrom, ast.alias]] = field(default_factory=dict)


class NormalForm(ast.NodeVisitor):
    """Writes the tokens of one top-level statement."""

    def __init__(self, resolve: Resolve, resolve_import: ResolveImport, resolve_word: ResolveWord) -> None:
        """The three say what names, imports and dotted words mean in the module that the statement stands in."""
        self.tokens: list[Token] = []
        self._resolve, self._resolve_import, self._resolve_word = resolve, resolve_import, resolve_word
        self._scopes: list[_Scope] = []

    def generic_visit(self, node: ast.AST) -> None:
        """The node's type and its fields, in the order of the grammar."""
        self.tokens.append(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if name not in SKIPPED_FIELDS:
                self.tokens.append(f".{name}")
                self._value(value)
        self.tokens.append(")")

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self.visit(value)
        elif isinstance(value, list):
            for each in value:
                if not (isinstance(each, ast.stmt) and is_docstring(each)):
                    self._value(each)
        else:
            self.tokens.append(repr(value))

    def visit_Constant(self, node: ast.Constant) -> None:
        """A word that names a module of ours says where code stands, not what it does; one that names a definition in
        it (a class in Scrapy's settings) is a use of that."""
        word = self._resolve_word(node.value) if isinstance(node.value, str) and "." in node.value else None
        self.tokens.append(f"{type(node.value).__name__} {node.value!r}" if word is None else word)

    def visit_Name(self, node: ast.Name) -> None:
        """A local variable by its number, anything else by what it refers to."""
        self._name(node.id, ())

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`schemas.ORDER` refers to the definition, not to the module; `Path(__file__).parent` to a place."""
        if _is_place(node):
            self.tokens.append("place")
            return
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            self.generic_visit(node)
            return
        self._name(inner.id, tuple(chain))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`Path(__file__).parents[1]` is a place, too."""
        if _is_place(node):
            self.tokens.append("place")
        else:
            self.generic_visit(node)

    def _name(self, name: str, attributes: tuple[str, ...]) -> None:
        token, taken = self._meaning(name, attributes)
        self.tokens.append(token)
        self.tokens.extend(f".{attribute}" for attribute in attributes[taken:])

    def _meaning(self, name: str, attributes: tuple[str, ...]) -> tuple[Token, int]:
        for depth, scope in enumerate(reversed(self._scopes)):
            if name not in scope.bound or (scope.kind == "class" and depth):
                continue
            if name in scope.imports:
                return self._resolve_import(*scope.imports[name], attributes)
            if name in scope.kept:
                return f"kept {name}", 0
            number = scope.numbers.setdefault(name, len(scope.numbers))
            return f"local {len(self._scopes) - depth}.{number}", 0
        token, taken = self._resolve(name, attributes)
        return (f"builtin {name}" if token is None else token), taken

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Defaults, decorators and annotations belong to the scope outside, the body to its own."""
        self.tokens.append(f"({type(node).__name__} {node.name}")
        for each in [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]:
            self.visit(each)
        parameters = {each.arg for each in _parameters(node.args)}
        scope = _scope_of(node.body, "function")
        scope.bound |= parameters
        scope.kept |= parameters
        if any(isinstance(each, ast.Name) and each.id in FRAMES_ARE_READ for each in ast.walk(node)):
            scope.kept |= scope.bound
        self._inside(scope, node.body)
        self.tokens.append(")")

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Its parameters are local variables: who calls it by their names is not known here, and hardly exists."""
        self.tokens.append("(Lambda")
        scope = _Scope("function", {each.arg for each in _parameters(node.args)})
        for default in [*node.args.defaults, *(each for each in node.args.kw_defaults if each)]:
            self.visit(default)
        self.tokens.append(_shape(node.args))
        self._inside(scope, [node.body])
        self.tokens.append(")")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """What it binds are attributes, whose names count; its methods do not see them."""
        self.tokens.append(f"(ClassDef {node.name}")
        for each in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(each)
        scope = _scope_of(node.body, "class")
        scope.kept |= scope.bound
        self._inside(scope, node.body)
        self.tokens.append(")")

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.tokens.append(f"({type(node).__name__}")
        self.visit(node.generators[0].iter)  # seen from outside
        targets = [each.target for each in node.generators]
        scope = _Scope("comprehension", {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)})
        self._scopes.append(scope)
        for number, each in enumerate(node.generators):
            self.tokens.append("for async" if each.is_async else "for")
            self.visit(each.target)
            if number:
                self.visit(each.iter)
            for condition in each.ifs:
                self.tokens.append("if")
                self.visit(condition)
        for each in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(each)
        self._scopes.pop()
        self.tokens.append(")")

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _inside(self, scope: _Scope, body: list[ast.stmt] | list[ast.expr]) -> None:
        self._scopes.append(scope)
        self._value(body)
        self._scopes.pop()

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        """That something is imported here, not how: the names are told where they are used."""
        for alias in node.names:
            token, _ = self._resolve_import(node, alias, ())
            if not isinstance(token, Reference):  # an import of ours is told by its use
                self.tokens.append(f"import {token}")

    visit_ImportFrom = visit_Import

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        """Variables of a function around this one."""
        self.tokens.append("(Nonlocal")
        for name in node.names:
            self._bound_word(name)
        self.tokens.append(")")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """`as error` binds a variable by a word of the grammar."""
        self.tokens.append("(ExceptHandler")
        if node.type:
            self.visit(node.type)
        self._bound_word(node.name)
        self._value(node.body)
        self.tokens.append(")")

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """`case pattern as name`."""
        self.tokens.append("(MatchAs")
        self._value(node.pattern)
        self._bound_word(node.name)
        self.tokens.append(")")

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """`case [first, *name]`."""
        self.tokens.append("(MatchStar")
        self._bound_word(node.name)
        self.tokens.append(")")

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """`case {"key": value, **name}`."""
        self.tokens.append("(MatchMapping")
        for key, pattern in zip(node.keys, node.patterns, strict=True):
            self.visit(key)
            self.visit(pattern)
        self._bound_word(node.rest)
        self.tokens.append(")")

    def _bound_word(self, name: str | None) -> None:
        if name is None:
            self.tokens.append("None")
        else:
            self._name(name, ())


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    starred = [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def _shape(arguments: ast.arguments) -> str:
    counts = (len(arguments.posonlyargs), len(arguments.args), len(arguments.kwonlyargs), len(arguments.defaults))
    wanted = [each is not None for each in arguments.kw_defaults]
    return f"{counts} {wanted} {arguments.vararg is not None} {arguments.kwarg is not None}"


def _scope_of(body: list[ast.stmt], kind: str) -> _Scope:
    """What the statements bind, without what nested functions and classes bind for themselves."""
    scope, outside = _Scope(kind), set[str]()
    for node in _own_nodes(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.bound.add(node.name)
            scope.kept.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                scope.bound.add(name)
                scope.imports[name] = (node, alias)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outside.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            scope.bound.add(node.id)
            scope.imports.pop(node.id, None)
        else:
            scope.bound.update(_words(node))
    scope.bound -= outside
    return scope


def _words(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    return [node.rest] if isinstance(node, ast.MatchMapping) and node.rest else []


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Nodes of this scope. Of a comprehension only what `:=` binds belongs to it."""
    todo: list[ast.AST] = list(reversed(body))
    while todo:
        node = todo.pop()
        if isinstance(node, COMPREHENSIONS):
            todo.extend(each.target for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
            continue
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            todo.extend(reversed(list(ast.iter_child_nodes(node))))


def _is_place(node: ast.expr) -> bool:
    """`Path(__file__)` followed by `.parent`, `.parents[n]`, `.resolve()`: where the module stands."""
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
            node = node.func
        elif isinstance(node, ast.Attribute) and node.attr in PLACES:
            node = node.value
        else:
            break
    return isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "__file__" for a in node.args)
