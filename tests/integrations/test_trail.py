"""Following sequences through rows that change places."""

import pytest
import torch

from personalign.errors import InputError
from personalign.integrations.hf import Trail


def grown(*steps: list[list[int]], num_prompts: int) -> Trail:
    trail = Trail(num_prompts)
    for rows in steps:
        trail.extend(torch.tensor(rows))
    return trail


def test_a_fork_is_followed_back_to_its_row() -> None:
    """A sequence's path names the row it stood in at each step, through swaps and forks, in its own prompt only."""
    trail = grown(
        [[1, 2], [1, 2], [9, 2], [9, 2]],
        [[1, 2, 5], [1, 2, 6], [9, 2, 6], [9, 2, 5]],
        [[1, 2, 6, 7], [1, 2, 6, 8], [9, 2, 5, 7], [9, 2, 6, 7]],
        num_prompts=2,
    )
    drawn = [[5, 3], [6, 8, 1], [6, 7, 1], [5, 7, 0]]
    assert list(trail.paths(drawn)) == [[0, 0], [0, 1, 1], [2, 2, 3], [2, 3, 2]]
    assert (len(trail), trail.prompt_length) == (3, 2)


def test_a_path_ends_where_no_row_goes_on() -> None:
    """What follows a sequence's own end was never drawn, and has no row."""
    trail = grown([[1], [1]], [[1, 5], [1, 6]], [[1, 5, 7], [1, 5, 8]], num_prompts=1)
    assert list(trail.paths([[6, 0, 0]])) == [[0, 1]]
    assert list(trail.paths([[5, 8, 0]])) == [[0, 0, 1]]  # control: this one goes on


def test_prompts_may_be_embeddings() -> None:
    """Rows that begin with no ids at all are alike, and are told apart from their first token on."""
    trail = Trail(2)
    trail.extend(torch.zeros(4, 0, dtype=torch.long))
    assert trail.extend(torch.tensor([[5], [6], [5], [6]])).tolist() == [0, 0, 2, 2]
    assert trail.extend(torch.tensor([[6, 1], [6, 2], [5, 1], [6, 1]])).tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [1, 2]],  # no token more
        [[1, 2, 3, 4], [1, 2, 3, 4]],  # two more
        [[1, 7, 3], [1, 2, 3]],  # another beginning
        [[1, 2, 3]],  # fewer rows
    ],
)
def test_a_jump_is_refused(rows: list[list[int]]) -> None:
    """Rows that don't continue the step before by one token each are another call's."""
    trail = grown([[1, 2], [1, 2]], num_prompts=1)
    with pytest.raises(InputError, match="one generate call for each steer"):
        trail.extend(torch.tensor(rows))
    assert trail.extend(torch.tensor([[1, 2, 3], [1, 2, 4]])).tolist() == [0, 0]  # control


def test_a_profile_for_different_prompts_is_refused() -> None:
    """Four prompts and two profiles aren't two beams each."""
    with pytest.raises(InputError, match="4 rows for 2 profiles"):
        grown([[1], [2], [3], [3]], num_prompts=2)
