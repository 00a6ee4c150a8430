"""What was said before becomes less likely, what the caller names more or less; other rows keep their bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from personalign.decode import reference
from personalign.decode.request import Request
from personalign.decode.sample import RowSampler
from personalign.decode.slots import Slots
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.tiny_models import STEERING, Kit, bits, talk

SIZE = 60
PROMPT = [3, 3, 17]
REPLY = [5, 9, 5, 5, 17]
LOGITS = 3 * torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0))


def _adjusted(sampling: Options, reply: list[int] = REPLY) -> Tensor:
    """Logits (V,) of the middle one of three rows, its neighbours having no penalties."""
    sampler = RowSampler(Slots(4, torch.device("cpu")), SIZE, Options().max_tokens)
    sampler.admit(1, sampling, PROMPT)
    for token in reply:
        sampler.note(torch.tensor([7, token, 8]), torch.tensor([True, True, True]))
    sampler.note(torch.tensor([1, 1, 1]), torch.tensor([True, False, True]))
    adjusted = sampler.adjust(LOGITS)
    assert torch.equal(bits(adjusted[[0, 2]]), bits(LOGITS[[0, 2]]))
    return adjusted[1]


@pytest.mark.parametrize("penalty", [1.3, 2.0, 0.8])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    """Over prompt and reply, dividing positive logits and multiplying negative ones."""
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([PROMPT + REPLY]), LOGITS[1:2])[0]
    ours = _adjusted(Options(repetition_penalty=penalty))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, _adjusted(Options(repetition_penalty=penalty), REPLY[:1]), atol=1e-6)  # control


def test_presence_and_frequency_concern_the_reply_alone() -> None:
    """Once for standing there, and once for every time; the prompt isn't counted, nor is a token that wasn't kept."""
    presence = _adjusted(Options(presence_penalty=0.5)) - LOGITS[1]
    frequency = _adjusted(Options(frequency_penalty=0.25)) - LOGITS[1]
    expected = {5: (-0.5, -0.75), 9: (-0.5, -0.25), 17: (-0.5, -0.25), 3: (0.0, 0.0), 1: (0.0, 0.0)}
    for token, (once, each) in expected.items():
        assert presence[token] == pytest.approx(once, abs=1e-6)
        assert frequency[token] == pytest.approx(each, abs=1e-6)


def test_a_bias_is_added_after_the_penalties() -> None:
    """It isn't divided by the repetition penalty, which is what the other order would do."""
    both = Options(repetition_penalty=2.0, logit_bias={5: 10.0, 40: -100.0})
    penalised, biased = _adjusted(replace(both, logit_bias={})), _adjusted(both)
    assert biased[5] == pytest.approx(float(penalised[5]) + 10)
    assert biased[40] == pytest.approx(float(LOGITS[1, 40]) - 100)
    assert (biased != penalised).nonzero().flatten().tolist() == [5, 40]
    assert biased[5] != pytest.approx((float(LOGITS[1, 5]) + 10) / 2)


@pytest.mark.parametrize(
    "sampling",
    [
        Options(repetition_penalty=1.7),
        Options(presence_penalty=-1.0, frequency_penalty=2.0),
        Options(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.4, logit_bias={0: 1.0, 9: -3.0}),
    ],
)
def test_the_reference_says_the_same_in_plain_words(sampling: Options) -> None:
    """Rows on the device and the loop over tokens agree."""
    plain = reference.adjusted(LOGITS[1], sampling, PROMPT, REPLY)
    assert torch.allclose(_adjusted(sampling), plain, atol=1e-5)
    assert not torch.allclose(_adjusted(sampling), LOGITS[1], atol=1e-2)  # control


def test_rows_without_any_keep_the_very_tensor() -> None:
    """With nobody to be penalised nothing is computed; with somebody, minus zeros of others stay minus zeros."""
    sampler = RowSampler(Slots(2, torch.device("cpu")), SIZE, Options().max_tokens)
    sampler.admit(0, Options(), PROMPT)
    logits = torch.full((2, SIZE), -0.0)
    assert sampler.adjust(logits) is logits
    sampler.admit(1, Options(logit_bias={0: 1.0}), PROMPT)
    adjusted = sampler.adjust(logits)
    assert torch.equal(bits(adjusted[0]), bits(logits[0]))
    assert not torch.equal(bits(adjusted[1]), bits(logits[1]))  # control: adding zero would have turned them


def test_they_come_before_the_reward(kit: Kit, weights: np.ndarray) -> None:
    """The short list is cut from the adjusted logits: a token that is biased away is no candidate."""
    request = Request(talk("hello")[0], Options(4), Guidance(weights))
    plain, _ = reference.steered(kit.models(), request, [])
    best = int(plain.argmax())
    away = replace(request, options=Options(4, logit_bias={best: -50.0}))
    biased, _ = reference.steered(kit.models(), away, [])
    assert plain.isfinite().sum() == biased.isfinite().sum() == STEERING.num_candidates
    assert not biased[best].isfinite()
