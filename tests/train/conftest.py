"""One thread, so that a training's bits repeat, and the tiny models that are trained."""

from collections.abc import Iterator

import pytest
import torch
from decode.tiny_models import Kit, make_kit


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A Llama only: training takes no part in how families differ."""
    return make_kit("llama", tmp_path_factory.mktemp("llama"))
