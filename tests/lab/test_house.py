"""The house's figures find what they are meant to find, in a house made to have each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.house import House
from lab.wheel import NEEDED, faults


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Three modules: a circle that only type checking closes, a dead name, a name that is grammar."""
    sources = {
        "product/__init__.py": "",
        "product/a.py": "from product.b import used\n\n\ndef top(found):\n    return used(found)\n\n\nprint(top(1))\n",
        "product/b.py": (
            "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from product.a import top\n\n\n"
            "def used(x):\n    return x\n\n\ndef _unused():\n    return 1\n"
        ),
        "lab/c.py": "from product.a import top\n\n\ndef _unused():\n    return top(2)\n\n\n_unused()\n",
        "tests/test_b.py": "from product.b import _unused\n\n_unused()\n",
        "README.md": "# nothing\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return House(tmp_path, "product", ("product", "lab"))


def test_a_circle_is_found_though_only_types_close_it(house: House) -> None:
    """The two modules are named; what is imported when they run is no circle."""
    assert house.circles() == [["product.a", "product.b"]]
    assert house.chain() == ["product.a", "product.b"]


def test_a_name_that_only_tests_call_is_dead(house: House) -> None:
    """A private name counts in its own module alone, whatever others call theirs."""
    assert house.dead_names() == ["product.b:_unused"]


def test_grammar_is_found_where_a_noun_belongs(house: House) -> None:
    """A parameter called ``found`` is named with its line."""
    assert house.grammar_names() == ["product.a:4 found"]


def test_lines_are_counted_without_docstrings(house: House) -> None:
    """Functions of two lines each."""
    assert house.figures["function_p90"] == 2
    assert house.figures["product_lines"] == sum(house.lines.values()) == 20


def test_a_wheel_that_lacks_or_brings_too_much_is_told() -> None:
    """What is missing, foreign or too large is named; a right one has no faults (the control)."""
    assert faults(list(NEEDED), 1) == []
    assert faults([*NEEDED[1:], "lab/cli.py"], 21) == [
        f"{NEEDED[0]} is missing",
        "lab/ is in it",
        "it has 21.0 MB, expected at most 20",
    ]
