"""The bundled model under the models."""

import numpy as np
import pytest
import torch

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.decode.engine import generate
from personalign.decode.experts import load_experts
from personalign.decode.load import load_causal, render
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.steer import Step
from personalign.decode.successor import SuccessorHead
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Desk, haystack
from tests.decode.tiny_models import STEERING, talk


def test_the_bundled_models_plain_replies_are_generates() -> None:
    """Greedy decoding of real prompts, in one batch, is model.generate on each alone, and streams as it is."""
    base = load_causal(TINY / "base", "cpu")
    models = Models(base, None, STEERING, {})
    prompts = talk("I need a hotel in Paris", "Book me a table for two", "What movies are on?", "Thanks, bye!")
    replies = generate(models, [Request(messages, Options(32)) for messages in prompts])
    for messages, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([render(base.tokenizer, messages)])
        whole = base.model.generate(ids, do_sample=False, max_new_tokens=32)[0, ids.shape[1] :].tolist()
        assert reply.ids == tuple(i for i in whole if i not in base.ends)
        desk = Desk(models, 1, 256)
        caller = desk.submit(Request(messages, Options(32)), is_streamed=True)
        desk.drain()
        assert caller.text == reply.text
        assert reply.text.strip()


@pytest.fixture(scope="module")
def models() -> Models:
    """All that is bundled."""
    basis = Basis.load(TINY / "basis")
    assert basis.head is not None, "the bundled basis has one"
    experts = load_experts([TINY / "experts" / "hotels"], load_causal(TINY / "small", "cpu"))
    return Models(load_causal(TINY / "base", "cpu"), SuccessorHead.from_arrays(basis.head), basis.steering, experts)


def _needles(models: Models) -> list[Request]:
    assert models.head is not None, "see above"
    wish = Guidance(np.random.default_rng(0).normal(size=models.head.num_axes), 0.8)
    hotel, table = talk("I need a hotel in Paris", "Book me a table for two")
    return [Request(hotel, Options(6, 0.8, 0.95, 3, expert="hotels"), wish), Request(table, Options(6), wish)]


@pytest.mark.parametrize(("num_slots", "trials"), [(8, 40), (32, 60)])
@pytest.mark.slow
def test_a_row_of_the_bundled_model_does_not_depend_on_its_neighbours(
    models: Models, num_slots: int, trials: int
) -> None:
    """Within one batch shape a needle keeps every bit here too."""
    found = haystack(models, _needles(models), num_slots, trials)
    assert found.differing == 0
    assert found.neighbours >= num_slots / 2 - 1


def test_the_bundled_needle_notices_a_neighbour_that_leaks(models: Models) -> None:
    """Control: a steer that adds a millionth of the batch's mean is found."""

    def leak(logits: torch.Tensor, _: Step) -> torch.Tensor:
        return logits + 1e-6 * logits[logits.isfinite()].mean()

    assert haystack(models, _needles(models), 8, 10, steers=[leak]).differing > 5
