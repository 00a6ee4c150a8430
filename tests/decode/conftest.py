"""The tiny models of both families, made once a session."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.decode.tiny_models import Kit, make_kit


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A matrix product split over threads puts rows of one batch into blocks of different shapes, and bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Every test that takes it runs on both families."""
    return make_kit(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def weights() -> np.ndarray:
    return np.array([1.0, -2.0, 0.5])
