"""The tiny models of both families, made once a session."""

import numpy as np
import pytest

from tests.decode.tiny_models import Kit, make_kit


@pytest.fixture(scope="session", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Every test that takes it runs on both families, on the second one among the slow tests."""
    return make_kit(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def weights() -> np.ndarray:
    return np.array([1.0, -2.0, 0.5])
