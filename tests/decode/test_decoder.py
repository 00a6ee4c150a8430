"""Generating: what is refused, what is reported, how it streams."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from personalign.decode import reference
from personalign.decode.engine import generate
from personalign.decode.experts import load_experts
from personalign.decode.load import load_causal
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.steer import Step
from personalign.decode.successor import SuccessorHead
from personalign.errors import BasisError, InputError, MessageError, ModelError, ProfileError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Desk
from tests.decode.tiny_models import STEERING, Kit, random_head, talk, traced

HELLO = talk("hello")[0]
W = np.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize(
    ("request_", "error", "complaint"),
    [
        (Request(HELLO, Options(max_tokens=250)), MessageError, "at most 6 fit"),
        (Request([]), MessageError, "found no messages"),
        (
            Request(HELLO, Options(expert="boats")),
            InputError,
            r"no expert 'boats'; expected one of \['empty', 'hotels', 'whole'\]",
        ),
        (Request(HELLO, guidance=Guidance(W, -1.0)), InputError, "strength is -1.0"),
        (Request(HELLO, guidance=Guidance(W, math.nan)), InputError, "strength is nan"),
        (Request(HELLO, guidance=Guidance(W[:2])), ProfileError, r"shape \(2,\), expected \(3,\)"),
        (Request(HELLO, guidance=Guidance(W * math.nan)), ProfileError, "NaN or Inf"),
    ],
)
def test_bad_requests_are_refused_before_any_token(kit: Kit, request_: Request, error, complaint: str) -> None:
    """What is out of range, unknown or not a number is named, with what was expected; its neighbour isn't served."""
    with pytest.raises(error, match=complaint):
        generate(kit.models(), [Request(HELLO), request_])


def test_parts_that_do_not_fit_are_refused(kit: Kit) -> None:
    """A head of another width, and guidance without any head, never decode silently unguided."""
    with pytest.raises(BasisError, match="the head reads 16 hidden dimensions"):
        kit.models(head=random_head(hidden=16))
    with pytest.raises(BasisError, match="the basis has none"):
        generate(kit.models(head=None), [Request(HELLO, guidance=Guidance(W))])


def test_logits_that_are_not_finite_are_an_error(kit: Kit) -> None:
    """A model or a steer that yields NaN is reported, not decoded."""

    def poison(logits, step: Step):
        return torch.where((step.index == 2)[:, None], math.nan, logits)

    with pytest.raises(ModelError, match="NaN or Inf"):
        generate(kit.models(), [Request(HELLO, Options(max_tokens=6))], [poison])


@pytest.mark.parametrize(
    ("guidance", "beta", "why"),
    [
        (None, 1.0, "no_answers"),
        (Guidance(W, is_personal=False), 1.0, "nothing_personal"),
        (Guidance(W, 0.0), 1.0, "strength_zero"),
        (Guidance(W), 0.0, "strength_zero"),
        (Guidance(W), 1.0, None),
    ],
)
def test_a_reply_says_whether_and_why_not_it_was_guided(kit: Kit, guidance, beta: float, why: str | None) -> None:
    """The reason is told, and an unguided reply has moved nothing."""
    reply = generate(kit.models(steering=replace(STEERING, beta=beta)), [Request(HELLO, Options(8), guidance)])[0]
    assert (reply.guided, reply.reason) == (why is None, why)
    assert (reply.kl > 0) == (why is None)


def test_replies_end_at_their_own_limits(kit: Kit) -> None:
    """Each row of a batch has its own max_tokens; the end token ends a reply and isn't part of it."""

    def end_second(logits, step: Step):
        ends_here = (step.index == 3) & (step.request == 1)
        return torch.where(ends_here[:, None], logits.index_fill(-1, torch.tensor(kit.base.ends), 1e4), logits)

    def never_end(logits, step: Step):
        return logits.index_fill(-1, torch.tensor(kit.base.ends), -1e4)

    requests = [Request(HELLO, Options(max_tokens=n)) for n in (2, 9, 6)]
    replies = generate(kit.models(), requests, [never_end, end_second])
    assert [len(r.ids) for r in replies] == [2, 3, 6]
    assert [r.finish_reason for r in replies] == ["length", "stop", "length"]
    assert all(r.usage.prompt_tokens == replies[0].usage.prompt_tokens > 0 for r in replies)
    assert "<|" not in replies[1].text


def test_no_requests_are_no_replies(kit: Kit) -> None:
    """An empty batch is not an error."""
    assert generate(kit.models(), []) == []


def test_a_callers_steer_runs_last_and_may_force_the_draw(kit: Kit) -> None:
    """It sees hidden states, each row's place in its reply and the guided short list; what it returns is drawn from."""
    seen: list[tuple[list[int], list[int], tuple[int, ...]]] = []

    def force(logits, step: Step):
        seen.append((step.index.tolist(), step.request.tolist(), tuple(step.hidden.shape)))
        assert logits.isfinite().sum(-1).tolist() == [STEERING.num_candidates, 128]
        return torch.full_like(logits, -math.inf).scatter(-1, 40 + step.index[:, None], 0.0)

    requests = [Request(HELLO, Options(4), Guidance(W)), Request(HELLO, Options(4))]
    assert [r.ids for r in generate(kit.models(), requests, [force])] == [(40, 41, 42, 43)] * 2
    assert seen == [([t, t], [0, 1], (2, 32)) for t in range(4)]


def test_the_hidden_state_is_the_output_layers_input(kit: Kit) -> None:
    """What a steer and the successor head read gives the model's own logits when passed through its output layer."""
    seen: list[torch.Tensor] = []

    def look(logits, step: Step):
        assert torch.allclose(kit.base.output_layer(step.hidden), logits, atol=1e-5)
        seen.append(step.hidden)
        return logits

    generate(kit.models(), [Request(HELLO, Options(3)), Request(talk("a")[0], Options(3))], [look])
    assert seen


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_reply_in_pieces(kit: Kit, seed: int) -> None:
    """Ids and texts of the pieces add up to those of the reply, which is what generate gives."""
    request = Request(HELLO, Options(24, 1.5, 1.0, seed, expert="hotels"), Guidance(W, 0.8))
    desk = Desk(kit.models(), 1)
    caller = desk.submit(request, is_streamed=True)
    desk.drain()
    assert caller.text == caller.generated.text
    assert tuple(i for piece in caller.pieces for i in piece.ids) == caller.generated.ids
    assert caller.generated == generate(kit.models(), [request])[0]


def test_one_seed_is_not_one_quantile_for_everybody(kit: Kit) -> None:
    """With one seed the first tokens of many prompts are drawn all over their distributions, repeatably."""
    models, quantiles = kit.models(), []
    requests = [Request(talk(f"{i} cats")[0], Options(1, 1.0, seed=0)) for i in range(40)]
    replies = generate(models, requests)
    for request, reply in zip(requests, replies, strict=True):
        p = reference.steered(models, request, [])[0].softmax(-1)
        token = (*reply.ids, reply.end)[0]
        quantiles.append(float(p[:token].sum() + p[token] / 2))
    assert np.percentile(quantiles, [10, 50, 90]) == pytest.approx([0.1, 0.5, 0.9], abs=0.2)
    assert [reply.ids for reply in generate(models, requests)] == [reply.ids for reply in replies]
    assert {reply.seed for reply in replies} == {0}
    assert generate(models, [Request(HELLO, Options(1, seed=3))])[0].seed is None  # nothing is drawn


def test_without_a_seed_every_reply_is_a_draw_of_its_own(kit: Kit) -> None:
    """The default draws a fresh seed, which the reply names, and that seed repeats the draw; greedy needs none."""
    models = kit.models()
    replies = generate(models, [Request(HELLO, Options(8, 1.0)) for _ in range(6)])
    assert len({reply.ids for reply in replies}) == len({reply.seed for reply in replies}) == 6
    again = generate(models, [Request(HELLO, Options(8, 1.0, seed=reply.seed)) for reply in replies])
    assert [reply.ids for reply in again] == [reply.ids for reply in replies]
    assert len({reply.ids for reply in generate(models, [Request(HELLO, Options(8))] * 2)}) == 1  # control


def test_the_same_seed_writes_the_same_reply(kit: Kit) -> None:
    """A draw can be repeated, and another seed gives another one."""
    models = kit.models()
    replies = [generate(models, [Request(HELLO, Options(16, 1.0, 1.0, seed))])[0].ids for seed in (3, 3, 4)]
    assert replies[0] == replies[1] != replies[2]


def test_a_decoder_can_be_given_another_head_or_steering(kit: Kit) -> None:
    """Calibration tries steerings, training tries heads, on the same models."""
    models, request = kit.models(), Request(HELLO, Options(12), Guidance(W))
    assert generate(replace(models, steering=replace(STEERING, beta=0.0)), [request])[0].kl == 0
    assert generate(replace(models, head=random_head(1)), [request])[0].kl != generate(models, [request])[0].kl


def test_the_short_list_is_cut_from_the_mix(kit: Kit) -> None:
    """Experts come before the reward: the candidates are the top K of base and expert together, not of base."""
    request = Request(HELLO, Options(4, expert="whole", alpha=1.0))
    _, mixed = traced(kit.models(), [request])
    _, guided = traced(kit.models(), [replace(request, guidance=Guidance(W))])
    _, base = traced(kit.models(), [Request(HELLO, Options(4))])
    candidates = set(guided[0, 0].isfinite().nonzero().flatten().tolist())
    assert candidates == set(mixed[0, 0].index_fill(0, torch.tensor([1]), -math.inf).topk(10).indices.tolist())
    assert candidates != set(base[0, 0].topk(10).indices.tolist())


def test_an_expert_has_its_own_weight(kit: Kit) -> None:
    """alpha=None means the one in expert.json."""
    models = kit.models()
    _, own = traced(models, [Request(HELLO, Options(3, expert="hotels"))])
    _, said = traced(models, [Request(HELLO, Options(3, expert="hotels", alpha=0.5))])
    _, more = traced(models, [Request(HELLO, Options(3, expert="hotels", alpha=1.0))])
    assert torch.equal(own, said)
    assert not torch.equal(own[0], more[0])


def test_a_reply_steers_by_the_tokens_that_end_it(kit: Kit) -> None:
    """A model that names no end token writes to its limit, and tells of no end; one that does tells which (control)."""
    endless = replace(kit.base)
    endless.__dict__["ends"] = ()
    models = Models(endless, kit.head, STEERING, {})
    (reply,) = generate(models, [Request(HELLO, Options(5), Guidance(W))])
    assert (reply.finish_reason, reply.end) == ("length", None)
    (ended,) = generate(kit.models(), [Request(HELLO, Options(5, logit_bias={1: 100.0}))])
    assert (ended.finish_reason, ended.end) == ("stop", 1)


def test_threads_may_share_a_decoder(kit: Kit) -> None:
    """Replies written at the same time are those written one after the other: a pass's hooks see that pass only."""
    models = kit.models()
    words = talk("hello", "the cat", "7", "what?") * 3
    requests = [Request(messages, Options(10, expert="hotels"), Guidance(W, 0.8)) for messages in words]
    alone = [generate(models, [request])[0].ids for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: generate(models, [request])[0].ids, requests))
    assert together == alone


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_same_model_and_obeys_the_same_bound(kit: Kit) -> None:
    """On CUDA the fingerprints are the CPU's, and steering is bounded and told as there."""
    base = load_causal(kit.folder / "base", "cuda")
    assert base.fingerprints == kit.base.fingerprints
    experts = load_experts([kit.folder / "hotels"], load_causal(kit.folder / "small", "cuda"))
    models = Models(base, SuccessorHead.from_arrays(kit.head.to_arrays()), STEERING, experts)
    requests = [Request(HELLO, Options(8, 1.0, seed=0, expert="hotels"), Guidance(W, 0.8)), Request(HELLO, Options(8))]
    guided, plain = generate(models, requests)
    assert guided.guided
    assert 0 < guided.tilt_kl <= STEERING.clip**2 / 8 + 1e-6
    assert plain.ids == generate(models, requests)[1].ids
