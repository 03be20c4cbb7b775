"""What of a definition counts: two texts of one meaning have one normal form, two meanings have two."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.identity.code_graph import OUTSIDE, WHOLE, CodeGraph, Reference


def digest(folder: Path, text: str, name: str = "f") -> str:
    """Of a definition in a module of its own; `ours.other` has THERE and there()."""
    package = folder / "ours"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "other.py").write_text("THERE = 1\n\ndef there():\n    return THERE\n", encoding="utf-8")
    (package / "module.py").write_text(text, encoding="utf-8")
    return CodeGraph(folder, ["ours"]).digest(Reference("ours.module", name))


SAME = {
    "local variables": ("def f(a):\n    x = a\n    return x", "def f(a):\n    y = a\n    return y"),
    "loop and exception": (
        "def f(a):\n    for x in a:\n        try:\n            g(x)\n        except E as e:\n            raise e",
        "def f(a):\n    for y in a:\n        try:\n            g(y)\n        except E as u:\n            raise u",
    ),
    "comprehension": ("def f(a):\n    return [x for x in a if x]", "def f(a):\n    return [y for y in a if y]"),
    "comprehension over its own name": ("def f(x):\n    return [x for x in x]", "def f(x):\n    return [y for y in x]"),
    "closure": (
        "def f(a):\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    return g",
        "def f(a):\n    k = 0\n    def g():\n        nonlocal k\n        k += 1\n    return g",
    ),
    "lambda": (
        "def f(a):\n    return sorted(a, key=lambda x: -x)",
        "def f(a):\n    return sorted(a, key=lambda y: -y)",
    ),
    "match": (
        "def f(a):\n    match a:\n        case [x, *r] if r:\n            return x, r\n        case {'k': v, **m}:\n            return v, m",
        "def f(a):\n    match a:\n        case [y, *s] if s:\n            return y, s\n        case {'k': w, **n}:\n            return w, n",
    ),
    "docstring and layout": ('def f(a):\n    "what"\n    return (a)', "def f( a ):\n    # why\n    return a"),
    "how it is imported": (
        "from ours.other import there\ndef f():\n    return there()",
        "from ours import other as o\ndef f():\n    return o.there()",
    ),
    "imported inside": (
        "import ours.other\ndef f():\n    return ours.other.there()",
        "def f():\n    from ours.other import there as t\n    return t()",
    ),
    "library by another name": (
        "import numpy as np\ndef f():\n    return np.sum(1)",
        "import numpy\ndef f():\n    return numpy.sum(1)",
    ),
    "what is not used": ("def f():\n    return 1", "X = 2\ndef g():\n    return X\ndef f():\n    return 1"),
    "order of definitions": (
        "A = 1\ndef g():\n    return f()\ndef f():\n    return g, A",
        "def f():\n    return g, A\ndef g():\n    return f()\nA = 1",
    ),
    "types only": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ours.other import THERE\ndef f(a: THERE): ...",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ours.gone import THERE\ndef f(a: THERE): ...",
    ),
    "run as a program": ("def f():\n    return 1", "def f():\n    return 1\nif __name__ == '__main__':\n    f()"),
    "where it stands": (
        "from pathlib import Path\ndef f():\n    return Path(__file__).parent / 'x'",
        "from pathlib import Path\ndef f():\n    return Path(__file__).resolve().parents[2] / 'x'",
    ),
}

DIFFERENT = {
    "constant": ("X = 1\ndef f():\n    return X", "X = 2\ndef f():\n    return X"),
    "type of a constant": ("def f():\n    return 1", "def f():\n    return 1.0"),
    "default": ("def f(a=1):\n    return a", "def f(a=2):\n    return a"),
    "default of a lambda": ("def f():\n    return lambda a=1: a", "def f():\n    return lambda a=2: a"),
    "parameter, which a caller may name": ("def f(a):\n    return a", "def f(b):\n    return b"),
    "keyword": ("def f(a):\n    return g(x=a)", "def f(a):\n    return g(y=a)"),
    "which of two variables": ("def f():\n    x, y = 1, 2\n    return x", "def f():\n    x, y = 1, 2\n    return y"),
    "branch": ("def f(a):\n    return 1 if a else 2", "def f(a):\n    return 1 if not a else 2"),
    "far away": (
        "def f():\n    return g()\ndef g():\n    return h()\ndef h():\n    return 1",
        "def f():\n    return g()\ndef g():\n    return h()\ndef h():\n    return 2",
    ),
    "in a circle": (
        "def f(n):\n    return n and g(n)\ndef g(n):\n    return f(n - 1)",
        "def f(n):\n    return n and g(n)\ndef g(n):\n    return f(n - 2)",
    ),
    "which of two functions of one name": (
        "from ours.other import there\ndef f():\n    return there()",
        "def there():\n    return 2\ndef f():\n    return there()",
    ),
    "attribute": ("class f:\n    x = 1", "class f:\n    y = 1"),
    "names that are read": ("def f():\n    x = 1\n    return locals()", "def f():\n    y = 1\n    return locals()"),
    "name in an f-string": ("def f():\n    x = 1\n    return f'{x=}'", "def f():\n    y = 1\n    return f'{y=}'"),
    "part of a table": ("T = {}\nT['a'] = 1\ndef f():\n    return T", "T = {}\nT['a'] = 2\ndef f():\n    return T"),
    "fallback": (
        "try:\n    import fast as x\nexcept ImportError:\n    x = None\ndef f():\n    return x",
        "try:\n    import fast as x\nexcept ImportError:\n    x = 1\ndef f():\n    return x",
    ),
    "inside and outside": (
        "def f(x):\n    y = [x for x in [1]]\n    return x",
        "def f(x):\n    y = [x for x in [1]]\n    return y",
    ),
    "order of assignments": ("X = 1\nX = 2\ndef f():\n    return X", "X = 2\nX = 1\ndef f():\n    return X"),
    "named in a string": ("def f():\n    return 'ours.other.THERE'", "def f():\n    return 'ours.other.there'"),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=list(SAME))
def test_one_meaning_has_one_digest(tmp_path: Path, one: str, other: str) -> None:
    assert digest(tmp_path, one) == digest(tmp_path, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=list(DIFFERENT))
def test_two_meanings_have_two(tmp_path: Path, one: str, other: str) -> None:
    assert digest(tmp_path, one) != digest(tmp_path, other)


def test_what_a_library_is_taken_from_is_told(tmp_path: Path) -> None:
    digest(
        tmp_path,
        "import numpy.linalg\nfrom os import path\ndef f():\n    import torch\n    return numpy, path, torch.sum",
    )
    graph = CodeGraph(tmp_path, ["ours"])
    assert graph.definition(Reference("ours.module", "f")).libraries == {"numpy", "os", "torch"}


def test_a_module_outside_the_data_is_not_followed(tmp_path: Path) -> None:
    text = "from ours import draw\nfrom ours.draw import show\ndef f():\n    return draw.show, show"
    found = set()
    for figure in (1, 2):
        digest(tmp_path, "def f(): ...")
        (tmp_path / "ours/draw.py").write_text(f"{OUTSIDE} = 'draws'\n\ndef show():\n    return {figure}\n")
        found.add(digest(tmp_path, text))
    assert len(found) == 1


def test_statements_that_define_nothing_count_for_all_of_the_module(tmp_path: Path) -> None:
    reached = []
    for text in ("g()\ndef g(): ...\ndef f(): ...", "g(1)\ndef g(a=0): ...\ndef f(): ..."):
        digest(tmp_path, text)
        graph = CodeGraph(tmp_path, ["ours"])
        reached.append({graph.digest(r) for r in graph.reached([Reference("ours.module", "f")])})
    assert reached[0] != reached[1]


def test_a_name_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"ours\.other defines no 'nothing'"):
        digest(tmp_path, "from ours.other import nothing\ndef f():\n    return nothing")
    with pytest.raises(ModuleNotFoundError, match=r"ours\.gone"):
        digest(tmp_path, "from ours.gone import x\ndef f():\n    return x")
    assert CodeGraph(tmp_path, ["ours"]).digest(Reference("ours.other", WHOLE))
