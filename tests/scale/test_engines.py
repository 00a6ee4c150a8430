"""Whoever does the work gives all results, or says that a worker was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from personalign.errors import EngineError
from personalign.scale.engines import ENGINES, run_local, run_ray


def doubled(item: int) -> int:
    return 2 * item


def test_all_is_done() -> None:
    """A single piece of work is done at once."""
    assert list(run_local(doubled, [4])) == [8]
    assert list(run_local(doubled, [])) == []


@pytest.mark.slow
def test_many_pieces() -> None:
    """Several are done by processes, in any order."""
    assert sorted(run_local(doubled, [1, 2, 3])) == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_tries_again(tmp_path: Path) -> None:
    """Where Ray loses a worker, its piece is done by another; where it loses each, an error says what to do."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install 'personalign[ray]'")

    def once(item: int) -> int:
        mark = tmp_path / f"{item}"
        if item == 2 and not mark.exists():
            mark.touch()
            os._exit(1)
        return 2 * item

    def never(item: int) -> int:
        os._exit(item)

    assert sorted(run_ray(once, [1, 2, 3])) == [2, 4, 6]
    with pytest.raises(EngineError, match="a worker ended before its part was done"):
        list(run_ray(never, [1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_errors_are_the_works_own() -> None:
    """What goes wrong in the work is raised as it is."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install 'personalign[ray]'")

    def fails(item: int) -> int:
        raise ValueError(f"no {item}")

    for run in (ENGINES["ray"], map):
        with pytest.raises(ValueError, match="no 1"):
            list(run(fails, [1]))
