"""The house in numbers, by reading the tree: ``python -m lab.house --json``, bars beside what is found.

``--check`` ends with 1 where a bar that guards the tree is missed; ``--tests`` runs ``make test`` and keeps the time.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lab.harness import Bar, judge

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "lab" / "results" / "house.json"
PRODUCT = ROOT / "personalign"
USERS = ("personalign", "lab", "migrations", "examples")  # whose code may call a name; tests may not keep one alive
PAGES = ("README.md", "docs", "notebooks")  # what is shown to users is used
BARS: Mapping[str, Bar] = {
    "product_lines": Bar("≤", 14_500),
    "modules": Bar("≤", 130),
    "import_depth": Bar("≤", 14),
    "circles": Bar("≤", 0),
    "dead_names": Bar("≤", 0),
    "grammar_names": Bar("≤", 0),
    "readme_bytes": Bar("≤", 8_000),
    "reading_lines": Bar("≤", 1_500),
    "function_p90": Bar("≤", 16),
    "largest_file": Bar("≤", 349),
    "test_minutes": Bar("≤", 10),
}
SLOW = ("test_minutes",)  # needs running
UNGUARDED = ("product_lines", *SLOW)  # told, and no reason to refuse a change
# words that say how a thing stands to the sentence around it, and not what it is
GRAMMAR = set(
    re.findall(
        r"\w+",
        "found of told said kept at own rest here there ours theirs mine beside felt whose those these that this its "
        "than beyond within under over since through among besides alone once again still yet then else apart together",
    )
)
Graph = dict[str, set[str]]
LIBRARIES = r"\w+\.(command|callback|listens_for|setter|get|post|put|delete)"  # decorators that register a function
# rooms that only a server or a fleet needs; the bars were set before there were any
ANNEX = (
    r"personalign\.(serve|client|views|vitals|scale|integrations\.(langchain|vllm)|cli\.(serving|fitting|vllm)|"
    r"store\.(keys|once|history|postgres|bulk|connections|facts|places|transfer))\b"
)
BY_NAME = {"_repr_html_"}  # notebooks look it up
PLAIN = {"NamedTuple", "TypedDict", "Protocol", "Generic", "Exception"}  # bases that call no method of ours
Function = ast.FunctionDef | ast.AsyncFunctionDef


class House:
    """The product's modules, parsed."""

    def __init__(self, root: Path = ROOT, product: str = "personalign", users: Sequence[str] = USERS) -> None:
        self.root, self.product, self.users = root, product, users
        self.trees = {_module(path, root): ast.parse(path.read_text("utf-8")) for path in _sources(root / product)}
        self.lines = {
            _module(path, root): len(path.read_text("utf-8").splitlines()) for path in _sources(root / product)
        }

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every figure that reading gives."""
        annex = {name for name in self.trees if re.match(ANNEX, name)}
        return {
            "product_lines": sum(self.lines[name] for name in self.trees.keys() - annex),
            "modules": len(self.trees.keys() - annex),
            "server_lines": sum(self.lines[name] for name in annex),
            "server_modules": len(annex),
            "import_depth": len(self.chain()),
            "circles": len(self.circles()),
            "dead_names": len(self.dead_names()),
            "grammar_names": len(self.grammar_names()),
            "readme_bytes": (self.root / "README.md").stat().st_size,
            "reading_lines": sum(len((self.root / p).read_text("utf-8").splitlines()) for p in self.reading()),
            "function_p90": float(np.quantile(self.function_lines(), 0.9)),
            "largest_file": max(self.lines.values()),
        }

    def imports(self, *, eager: bool) -> Graph:
        """Which module imports which: at import time only, or anywhere, type checking and functions included."""
        return {name: set(self._imports(tree, eager=eager)) - {name} for name, tree in self.trees.items()}

    def _imports(self, tree: ast.Module, *, eager: bool) -> Iterator[str]:
        for node in _eager(tree) if eager else ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.trees)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    yield from [target if target in self.trees else node.module] if node.module in self.trees else []

    def chain(self) -> list[str]:
        """The longest chain of modules that import each other when imported, from the top, without the annex."""
        graph = {name: targets for name, targets in self.imports(eager=True).items() if not re.match(ANNEX, name)}
        known: dict[str, list[str]] = {}

        def below(name: str) -> list[str]:
            if name not in known:
                known[name] = [name]  # stops at a circle, which is counted elsewhere
                known[name] = [
                    name,
                    *max((below(other) for other in graph[name] if other in graph), key=len, default=[]),
                ]
            return known[name]

        return max(map(below, sorted(graph)), key=len)

    def circles(self) -> list[list[str]]:
        """Groups of files that import each other, lazily or for types included."""
        graph = self.imports(eager=False)
        reach = {name: _reachable(graph, name) for name in graph}
        groups = {frozenset(o for o in reach[n] if n in reach[o]) | {n} for n in graph if n in reach[n]}
        return sorted(sorted(group) for group in groups)

    def dead_names(self) -> list[str]:
        """Functions, classes, methods and constants that nothing outside tests mentions but their definition.

        A private name of a module has to be mentioned in that module; a public one in any, or on a page for users.
        """
        everywhere: set[str] = set()
        for path in chain.from_iterable(_sources(self.root / user) for user in self.users):
            everywhere.update(_mentions(ast.parse(path.read_text("utf-8"))))
        everywhere |= {word for path in self._pages() for word in re.findall(r"\w+", path.read_text("utf-8"))}
        classes = {node.name for tree in self.trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
        dead = []
        for module, tree in self.trees.items():
            inside = set(_mentions(tree))
            names = _definitions(tree, classes)
            unused = [name for name in names if name not in (inside if name.startswith("_") else everywhere)]
            dead += [f"{module}:{name}" for name in unused]
        return sorted(dead)

    def grammar_names(self) -> list[str]:
        """Variables, parameters, functions and classes whose name is a preposition, a pronoun or a participle."""
        return [
            f"{module}:{line} {name}"
            for module, tree in self.trees.items()
            for line, name in _defined(tree)
            if name.strip("_") in GRAMMAR
        ]

    def _pages(self) -> Iterator[Path]:
        for page in PAGES:
            path = self.root / page
            yield from [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in {".md", ".ipynb"}]

    def reading(self) -> list[str]:
        """The files that ``docs/reading.md`` asks a newcomer to read."""
        page = self.root / "docs" / "reading.md"
        names = re.findall(r"`(\w[\w/]*\.py)`", page.read_text("utf-8")) if page.exists() else []
        return list(dict.fromkeys(f"{self.product}/{path}" for path in names))

    def function_lines(self) -> list[int]:
        """Lines of every function, without its docstring."""
        nodes = chain.from_iterable(ast.walk(tree) for tree in self.trees.values())
        return [_length(node) for node in nodes if isinstance(node, Function)]


def _sources(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _eager(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function) or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            continue
        yield child
        yield from _eager(child)


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def _definitions(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    """Names that a module defines, but for those that Python or a library looks up by itself."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not _is_registered(node):
            yield node.name
        if (
            isinstance(node, ast.ClassDef)
            and {ast.unparse(base).split("[")[0] for base in node.bases} <= classes | PLAIN
        ):
            yield from (m.name for m in node.body if isinstance(m, Function) and not _is_registered(m))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (t.id for t in targets if isinstance(t, ast.Name) and not _is_dunder(t.id))


def _defined(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that is given to something, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def _is_registered(node: Function | ast.ClassDef) -> bool:
    """Whether Python calls it by itself, or a decorator hands it to a library that does."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return (
        _is_dunder(node.name) or node.name in BY_NAME or any(re.match(LIBRARIES, decorator) for decorator in decorators)
    )


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _mentions(tree: ast.Module) -> Iterator[str]:
    """Names that are used: read, called, imported, looked up as an attribute, or passed as a keyword or a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value) if len(node.value) < 80 and "\n" not in node.value else []


def _length(node: Function) -> int:
    assert node.end_lineno is not None, "ast gives it"
    doc = node.body[0]
    is_doc = isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if is_doc and doc.end_lineno else 0)


def _test_minutes() -> float:
    started = time.monotonic()
    subprocess.run(["make", "test"], cwd=ROOT, check=True)  # noqa: S607 - the make that a developer has
    return round((time.monotonic() - started) / 60, 1)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    check: Annotated[bool, typer.Option("--check", help="end with 1 where a bar is missed")] = False,
    tests: Annotated[bool, typer.Option("--tests", help="run make test, and keep the result with its minutes")] = False,
) -> None:
    """Print the figures of the house, and what is behind those that should be 0."""
    house = House()
    earlier = json.loads(RESULT.read_text("utf-8"))["figures"] if RESULT.exists() else {}
    minutes = {"test_minutes": _test_minutes()} if tests else {name: earlier[name] for name in SLOW if name in earlier}
    figures = house.figures | minutes
    rows = [{"figure": name, "value": value} | _judged(name, value) for name, value in figures.items()]
    behind = {
        "circles": house.circles(),
        "dead_names": house.dead_names(),
        "grammar_names": house.grammar_names(),
        "longest_chain": house.chain(),
    }
    result = {"command": "python -m lab.house --json", "figures": figures, "rows": rows} | behind
    if tests:
        RESULT.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        _show(rows, behind)
    if check and any(not row["is_reached"] for row in rows if row["figure"] not in UNGUARDED):
        sys.exit(1)


def _judged(name: str, value: float) -> dict[str, Any]:
    return judge(BARS[name], value) if name in BARS else {"bar": "", "is_reached": True}


def _show(rows: Sequence[Mapping[str, Any]], behind: Mapping[str, Any]) -> None:
    for row in rows:
        missed = "" if row["is_reached"] else "  missed"
        typer.echo(f"{row['figure']:<16}{row['value']:>8g}  {row['bar']}{missed}")
    for name, names in behind.items():
        typer.echo(f"{name}: {names}")


if __name__ == "__main__":
    typer.run(main)
