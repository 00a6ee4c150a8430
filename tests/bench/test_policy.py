"""Policy accuracy tells who is steered towards what they prefer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from personalign.bench.policy import Decided, log_ratios, policy_accuracy
from personalign.decode import Guidance, Request, reference
from personalign.errors import InputError
from personalign.service import Personalign


@pytest.fixture(scope="module")
def p(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    """Two people of opposite tastes: ada likes longer replies, ben shorter ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft speaks about tied embeddings
        with Personalign.open(f"sqlite:///{tmp_path_factory.mktemp('policy') / 'p.db'}") as opened:
            for user, is_longer in (("ada", True), ("ben", False)):
                while question := opened.ask(user):
                    opened.answer(user, question.id, "a" if (len(question.a) > len(question.b)) == is_longer else "b")
            yield opened


def longer(p: Personalign, most: int = 12) -> list[Decided]:
    """Pairs of the bank that neither was asked about, those furthest apart in length; the longer reply preferred."""
    asked = p._store.asked("ada", p.basis.id) | p._store.asked("ben", p.basis.id)
    fresh = [(q.prompt, *sorted((q.first, q.second), key=len)) for q in p.basis.bank if q.id not in asked]
    fresh.sort(key=lambda pair: len(pair[1]) - len(pair[2]))
    return [Decided(prompt, long, short) for prompt, short, long in fresh[:most]]


def test_a_policy_agrees_with_whom_it_serves(p: Personalign) -> None:
    """On pairs nobody was asked about, ada's raises the longer reply more often than not; ben's does the opposite."""
    of_ada, of_ben = (policy_accuracy(p, user, longer(p)) for user in ("ada", "ben"))
    assert of_ada.accuracy > 0.8
    assert of_ben.accuracy < 0.2  # the control: the pairs, not the measure, make the difference
    assert of_ada.low < of_ada.accuracy <= of_ada.high
    assert of_ada.margin > 0 > of_ben.margin
    assert of_ada.num_pairs == len(longer(p))


def test_ratios_are_those_of_the_steered_distribution(p: Personalign) -> None:
    """Token by token as the plain-words reference steers, the end included; weights of 0 move nothing."""
    profile = p.profile("ada")
    guidance = Guidance(profile.mean, p.basis.confidence(profile.covariance))
    question, base = p.basis.bank[0], p.decoder.base
    found = log_ratios(p.decoder, guidance, [question.prompt] * 2, [question.first, question.second])
    still = log_ratios(p.decoder, Guidance(np.zeros_like(profile.mean), 1.0), [question.prompt], [question.first])
    assert still == pytest.approx([0.0], abs=1e-4)
    everything = p.decoder.with_steering(replace(p.decoder.steering, num_candidates=base.num_logits))
    request = Request(question.prompt, guidance=guidance)
    ids, expected = [*base.tokenizer(question.first)["input_ids"], base.ends[0]], 0.0
    for t, token in enumerate(ids):
        steered, plain = (
            reference.steered(everything, asked, ids[:t])[0].log_softmax(-1)[token]
            for asked in (request, replace(request, guidance=None))
        )
        expected += float(steered - plain) / len(ids)
    assert found[0] == pytest.approx(expected, abs=1e-3)
    assert found[1] != pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_asked_is_refused(p: Personalign) -> None:
    """A stranger, no pairs, an empty reply."""
    pairs = longer(p, 2)
    with pytest.raises(InputError, match="answer some questions first"):
        policy_accuracy(p, "nobody", pairs)
    with pytest.raises(InputError, match="no pairs"):
        policy_accuracy(p, "ada", [])
    with pytest.raises(InputError, match="empty reply"):
        policy_accuracy(p, "ada", [Decided(pairs[0].prompt, pairs[0].preferred, "")])
