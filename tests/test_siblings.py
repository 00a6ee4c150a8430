"""The rules "blocks" and "best_of" through the service: the bundled model, a real basis, streams and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from personalign import Personalign
from personalign.errors import InputError
from personalign.learn.axes import features
from tests.decode.gate import until
from tests.decode.serving import leftovers
from tests.onboarded import ENDLESS, HELLO, onboard

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")
DRAWN: dict[str, Any] = {"temperature": 1.0, "max_tokens": 24}


def test_people_like_what_is_kept_for_them(p: Personalign) -> None:
    """Both rules gain under the person's own served weights over the model's own replies by the same seeds."""
    onboard(p, "ada", longer=False)
    weights = p.serving.weights(p.profile("ada"))

    def liking(**options: Any) -> float:
        texts = [p.chat("ada", HELLO, seed=seed, **DRAWN, **options).text for seed in range(6)]
        return float((features(p.basis, [HELLO] * 6, texts) @ weights).mean())

    plain = liking(strength=0.0)
    assert liking(rule="blocks", num_siblings=6, block_tokens=6) > plain
    assert liking(rule="best_of", num_siblings=6) > plain


@pytest.mark.parametrize("rule", ["blocks", "best_of"])
def test_a_seed_repeats_whatever_else_runs(p: Personalign, rule: str) -> None:
    """The reply of a seed is the same alone, in a batch and as a stream."""
    onboard(p, "ada")
    options = DRAWN | {"rule": rule, "seed": 5, "block_tokens": 5, "num_siblings": 3}
    reply = p.chat("ada", HELLO, **options)
    assert reply.guided
    assert reply.seed == 5
    assert p.chat_many(["ada", "nobody", "ada"], [HELLO] * 3, **options)[2].ids == reply.ids
    assert "".join(p.stream("ada", HELLO, **options)) == reply.text


def test_leaving_a_stream_frees_all_siblings(p: Personalign) -> None:
    """Closed mid-block, nothing of it stays in the engine."""
    onboard(p, "ada", 4)
    stream = p.stream("ada", HELLO, rule="blocks", logit_bias=ENDLESS, temperature=1.0, max_tokens=200, block_tokens=8)
    assert next(stream)
    engine = p._replies.worker._engine
    assert len(engine._scheduler.running) == 4
    stream.close()
    until(lambda: engine.is_idle)
    assert p._replies.worker.perform(lambda: leftovers(engine)) == []  # between two steps


def test_what_cannot_be_chosen_among_is_refused(open_store: Callable[..., Personalign]) -> None:
    """Greedy siblings, and more siblings than slots: errors that say what to pass, and nothing is written."""
    p = open_store(slots=2)
    onboard(p, "ada", 4)
    with pytest.raises(InputError, match=r"temperature is 0.*pass temperature=0.7, or num_siblings=1"):
        p.chat("ada", HELLO, rule="blocks")
    with pytest.raises(InputError, match=r"takes 4 slots.*there are 2; pass a smaller num_siblings="):
        p.chat("ada", HELLO, rule="best_of", temperature=1.0)
    assert p.chat("ada", HELLO, rule="best_of", num_siblings=2, temperature=1.0, max_tokens=4).guided


def test_erasing_someone_mid_reply(p: Personalign) -> None:
    """The rest is the model's own, and the reply that was asked for says so."""
    onboard(p, "ada", 4)
    stream = p.stream("ada", HELLO, rule="blocks", logit_bias=ENDLESS, temperature=1.0, max_tokens=64, block_tokens=4)
    assert next(stream)
    p.forget("ada")
    assert "".join(stream)
    engine = p._replies.worker._engine
    until(lambda: engine.is_idle)
    assert p._replies.worker.perform(lambda: leftovers(engine)) == []  # between two steps
