"""ARGS in the engine: siblings over a shared prefix give what reading every candidate's whole text gives."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from personalign.decode import Models, Request, RewardModel, load_causal, load_reward, reference
from personalign.decode import args as args_module
from personalign.decode.args import Args
from personalign.decode.engine import generate
from personalign.decode.steer import Step
from personalign.errors import EngineError, InputError, ModelError, ProfileError
from personalign.options import Options
from personalign.types import ArgsSteering, Guidance
from tests.decode.serving import Desk, haystack, leftovers, same_bits
from tests.decode.tiny_models import STEERING, Kit, V, bits, network, saved, talk, tokenizer, traced

TOLERANCE = 1e-4
W = Guidance(np.array([1.0, -2.0, 0.5]), 0.8)
HELLO, CAT, LONG = talk("hello", "the cat", "Q" * 30)
MIXED_BAG = [
    Request(HELLO, Options(16, rule="args"), W),
    Request(CAT, Options(16), W),  # another rule beside it
    Request(LONG, Options(12, 0.7, seed=5, expert="hotels", alpha=0.7, rule="args"), W),
    Request(CAT, Options(9, rule="args"), replace(W, strength=0.3)),
    Request(HELLO, Options(9, regex="[a-z]{1,6}", rule="args"), W),
    Request(HELLO, Options(5)),
]


def reward_model(kit: Kit, num_axes: int, vocabulary: int = V) -> RewardModel:
    """A random sequence classifier of the kit's family, saved and loaded as a real one is."""
    folder = kit.folder / f"reward{num_axes}-{vocabulary}"
    if not folder.exists():
        config = AutoConfig.from_pretrained(kit.folder / "base")
        config.num_labels, config.vocab_size = num_axes, vocabulary
        torch.manual_seed(5)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        nn.init.normal_(model.score.weight, std=0.5)
        saved(folder, model, tokenizer())
    return load_reward(folder, "cpu")


@pytest.fixture(params=[1, 3], ids=["one reward", "three rewards"])
def models(request: pytest.FixtureRequest, kit: Kit) -> Models:
    return kit.models(reward_model=reward_model(kit, request.param))


@pytest.mark.parametrize("args", [ArgsSteering(), ArgsSteering(3, 4.0)], ids=["published", "3 candidates, w = 4"])
def test_siblings_are_read_as_if_alone(kit: Kit, models: Models, args: ArgsSteering) -> None:
    """At every step of every row, scores agree with the uncached reference to 1e-4, and so does the account."""
    models = kit.models(reward_model=models.reward_model, args=args)
    replies, logits = traced(models, MIXED_BAG)
    for row, (request, reply) in enumerate(zip(MIXED_BAG, replies, strict=True)):
        for step in range(len(reply.ids)):
            expected, _ = reference.steered(models, request, reply.ids[:step])
            gap = torch.where(logits[step, row] == expected, 0.0, (logits[step, row] - expected).abs())
            assert gap.max() < TOLERANCE
        plain = reference.generate(models, request)
        assert reply.ids == plain.ids
        assert (reply.guided, reply.reason) == (plain.guided, plain.reason)
        found, wanted = ((r.kl, r.tilt_kl, r.changed, r.gained) for r in (reply, plain))
        assert found == pytest.approx(wanted, abs=TOLERANCE)
    assert sum(reply.guided for reply in replies) == 5
    assert int(logits[0, 0].isfinite().sum()) == args.num_candidates


def test_a_sibling_that_is_not_kept_is_noticed(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: keeping the first candidate instead of the drawn one is found."""
    kept = Args.accept

    def keeps_the_first(self: Args, tokens: Tensor, active: Tensor) -> None:
        kept(self, tokens if self._asked is None else self._asked[1][:, -1], active)

    monkeypatch.setattr(Args, "accept", keeps_the_first)
    replies, _ = traced(models, MIXED_BAG[:1])
    assert replies[0].ids != reference.generate(models, MIXED_BAG[0]).ids


def test_one_reward_is_everyones(kit: Kit) -> None:
    """One output steers strangers and persons alike, also where nothing is personal; several need a person."""
    alone, several = (kit.models(reward_model=reward_model(kit, d)) for d in (1, 3))
    stranger = Request(HELLO, Options(8, rule="args"))
    people = [replace(W, strength=1.0, is_personal=is_personal) for is_personal in (True, False)]
    guided = generate(alone, [stranger, *(replace(stranger, guidance=person) for person in people)])
    assert all(reply.guided for reply in guided)
    assert guided[0].ids == guided[1].ids == guided[2].ids
    reply = generate(several, [stranger])[0]
    assert (reply.guided, reply.reason) == (False, "no_answers")


def test_strength_zero_is_plain(models: Models) -> None:
    """Bit for bit, and the reason is told; a little strength is felt."""
    request = Request(HELLO, Options(8, rule="args"), replace(W, strength=0.0))
    replies, logits = traced(models, [request, MIXED_BAG[2]])
    _, plain = traced(models, [Request(HELLO, Options(8)), MIXED_BAG[2]])
    assert (replies[0].guided, replies[0].reason) == (False, "strength_zero")
    steps = len(replies[0].ids)
    assert torch.equal(bits(logits[:steps, 0]), bits(plain[:steps, 0]))
    little = replace(request, guidance=replace(W, strength=1e-3))
    assert not torch.equal(bits(traced(models, [little, MIXED_BAG[2]])[1][0, 0]), bits(plain[0, 0]))  # control


def test_a_constant_reward_changes_no_token(kit: Kit) -> None:
    """Greedy ARGS under a reward that is the same for all candidates is greedy decoding among the k best."""
    constant = reward_model(kit, 1)
    head = nn.Linear(constant.hidden_size, 1)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(3.0)
    models = kit.models(reward_model=replace(constant, head=head.requires_grad_(requires_grad=False)))
    steered, plain = generate(models, [Request(HELLO, Options(12, rule="args")), Request(HELLO, Options(12))])
    assert steered.guided
    assert steered.ids == plain.ids
    assert steered.tilt_kl == pytest.approx(0.0, abs=1e-6)


def test_a_reply_is_never_empty_here_either(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a reward model likes the end, it can't be drawn first where base's own first choice is another."""

    def likes_the_end(_: Args, candidates: Tensor) -> Tensor:
        return 100.0 * torch.isin(candidates, torch.tensor(kit.base.ends)).float()[..., None]

    monkeypatch.setattr(Args, "score", likes_the_end)
    models = kit.models(reward_model=reward_model(kit, 1), args=ArgsSteering(kit.base.num_tokens))
    request = Request(HELLO, Options(8, rule="args"))
    assert len(generate(models, [request])[0].ids) == 1
    monkeypatch.setattr(args_module, "not_empty", lambda logits, *_: logits)
    assert generate(models, [request])[0].ids == ()  # control


def test_a_reward_of_nan_is_told_and_stays_in_its_rows(kit: Kit) -> None:
    """The rows it judges are written as base would, with the reason; the others keep every bit."""
    sick = reward_model(kit, 1)
    head = nn.Linear(sick.hidden_size, 1)
    with torch.no_grad():
        head.bias.fill_(math.nan)
    models = kit.models(reward_model=replace(sick, head=head.requires_grad_(requires_grad=False)))
    judged, other = Request(HELLO, Options(8, rule="args")), Request(CAT, Options(8), W)
    replies, logits = traced(models, [judged, other])
    _, plain = traced(models, [replace(judged, options=replace(judged.options, rule="successor")), other])
    assert (replies[0].guided, replies[0].reason) == (False, "non_finite_reward")
    assert replies[1].guided
    assert torch.equal(bits(logits), bits(plain))


def test_a_reward_of_nan_beside_a_stranger_is_nothing_to_who_comes_next(kit: Kit) -> None:
    """What the reward model makes of a row that nobody asked it about doesn't count, then or later."""
    sick = reward_model(kit, 3)
    head = nn.Linear(sick.hidden_size, 3).requires_grad_(requires_grad=False)
    head.bias.fill_(math.nan)
    desk = Desk(kit.models(reward_model=replace(sick, head=head)), 2)
    judged, stranger = Request(HELLO, Options(8, rule="args"), W), Request(CAT, Options(8))
    assert [reply.reason for reply in desk.serve([judged, stranger])] == ["non_finite_reward", "no_answers"]
    assert leftovers(desk.engine) == []
    head.bias.zero_()  # it recovers
    assert all(reply.guided for reply in desk.serve([judged, judged]))


def test_a_tokenizer_may_know_ids_that_the_model_cannot_write(kit: Kit, tmp_path) -> None:
    """One token more than logits: constraints, experts and reward models work, and a bias on it is refused."""
    short = load_causal(saved(tmp_path / "short", network(kit.family, 0, V - 1), tokenizer()), "cpu")
    short.model.generation_config.eos_token_id = [1, V - 1, -1]
    assert (short.num_tokens, short.num_logits, short.ends) == (V, V - 1, (1,))
    models = kit.models(base=short, head=None, reward_model=reward_model(kit, 1, V - 1))
    requests = [
        Request(HELLO, Options(8, regex="[0-9]{3}")),
        Request(HELLO, Options(8, expert="whole")),
        Request(HELLO, Options(8, expert="hotels")),
        Request(HELLO, Options(8, rule="args")),
    ]
    replies = generate(models, requests)
    assert re.fullmatch("[0-9]{3}", replies[0].text)
    assert replies[3].guided
    for request, reply in zip(requests, replies, strict=True):
        assert reply.ids == reference.generate(models, request).ids
    assert generate(models, [Request(HELLO, Options(8, logit_bias={V - 2: 100.0}))])[0].ids == (V - 2,) * 8
    with pytest.raises(InputError, match=f"a token id in logit_bias is {V - 1}, expected a whole number from 0 to"):
        generate(models, [Request(HELLO, Options(8, logit_bias={V - 1: 5.0}))])


def test_the_padded_tail_is_no_candidate(kit: Kit) -> None:
    """A reward model has no embedding for it, and where a regex leaves few tokens it would fill up the k best."""
    models = kit.models(base=load_causal(kit.folder / "padded", "cpu"), reward_model=reward_model(kit, 1), experts={})
    requests = [Request(HELLO, Options(9, regex="[ab]{1,6}", rule="args")), Request(CAT, Options(9, rule="args"))]
    biased = [replace(r, options=replace(r.options, temperature=9.0, seed=s)) for s in range(3) for r in requests]
    for request, reply in zip(biased, generate(models, biased), strict=True):
        assert reply.guided
        assert reply.ids == reference.generate(models, request).ids


def test_bad_requests_are_refused(kit: Kit) -> None:
    """No reward model, another vocabulary, an unknown rule and weights of another size are named."""
    with pytest.raises(InputError, match="reward=PATH"):
        generate(kit.models(), [Request(HELLO, Options(rule="args"))])
    with pytest.raises(InputError, match="rule is 'magic'"):
        generate(kit.models(), [Request(HELLO, Options(rule="magic"))])
    with pytest.raises(ProfileError, match="shape"):
        generate(
            kit.models(reward_model=reward_model(kit, 3)),
            [Request(HELLO, Options(rule="args"), Guidance(np.ones(2)))],
        )
    elsewhere = replace(reward_model(kit, 1), head=nn.Linear(32, 1, device="meta"))
    with pytest.raises(ModelError, match=r"is on meta, .* on cpu; expected one device"):
        kit.models(reward_model=elsewhere)
    short = reward_model(kit, 1)
    short.backbone.resize_token_embeddings(120)
    with pytest.raises(ModelError, match="120 embeddings for 128 tokens"):
        kit.models(reward_model=short)
    strange = replace(reward_model(kit, 1), tokenizer=tokenizer(extra="ß😀日 the cat sat"))
    with pytest.raises(ModelError, match="reward model"):
        kit.models(reward_model=strange)


@pytest.mark.parametrize("is_waiting", [False, True])
@pytest.mark.parametrize("beta", [0.0, STEERING.beta])
def test_an_erased_persons_rewards_are_weighed_no_longer(kit: Kit, beta: float, is_waiting: bool) -> None:
    """Running or waiting, the reply goes on without their head and says why; one reward of everyone's goes on.

    The successor head's β has no part in it.
    """
    request = replace(
        MIXED_BAG[0], options=replace(MIXED_BAG[0].options, max_tokens=6), guidance=replace(W, user="ada", revision=1)
    )
    for num_axes, reason in ((3, "forgotten"), (1, None)):
        models = replace(kit.models(reward_model=reward_model(kit, num_axes)), steering=replace(STEERING, beta=beta))
        desk = Desk(models, 1)
        if is_waiting:
            desk.submit(Request(CAT, Options(3)))
        caller = desk.submit(request)
        desk.engine.step()
        desk.engine.forget("ada")
        desk.drain()
        assert caller.generated.reason == reason


def test_a_row_does_not_depend_on_its_neighbours_here_either(models: Models) -> None:
    """Under ARGS too a needle keeps every bit, wherever it sits and whoever joins, leaves or has another rule."""
    needles = [
        replace(MIXED_BAG[0], options=replace(MIXED_BAG[0].options, max_tokens=5)),
        replace(MIXED_BAG[2], options=replace(MIXED_BAG[2].options, max_tokens=5), messages=CAT),
    ]
    found = haystack(models, needles, 8, 30)
    assert found.differing == 0
    assert found.neighbours >= 3

    def leak(logits: Tensor, _: Step) -> Tensor:
        return logits + 1e-6 * logits[logits.isfinite()].mean()

    assert haystack(models, needles, 8, 8, steers=[leak]).differing > 3  # control


def _asked_of(models: Models) -> tuple[Desk, list[Request], list[list[Tensor]]]:
    """A desk, requests under both rules and none, and the bits each of them gets alone."""
    requests = [
        replace(MIXED_BAG[0], options=replace(MIXED_BAG[0].options, max_tokens=6)),
        Request(CAT, Options(7), W),
        Request(HELLO, Options(5)),
    ]
    alone = []
    for request in requests:
        desk = Desk(models, 4)
        desk.serve([request])
        alone.append(desk.traces[0])
    return Desk(models, 4), requests, alone


@pytest.mark.parametrize("is_reading", [False, True])
def test_a_reward_model_that_fails_ends_its_own_replies_only(models: Models, is_reading: bool) -> None:
    """While it scores or while it reads a prompt: a typed error, and everybody else keeps every bit."""
    desk, requests, alone = _asked_of(models)

    def fail(_module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        if kwargs["input_ids"].shape[1] != 10 if is_reading else kwargs["input_ids"].shape[0] > 1:
            raise RuntimeError("out of memory")

    hook = models.reward_model.backbone.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        callers = [desk.submit(request, is_watched=True) for request in requests]
        desk.drain()
    finally:
        hook.remove()
    assert isinstance(callers[0].outcome, EngineError)
    assert "RuntimeError: out of memory" in str(callers[0].outcome)
    assert all(same_bits(desk.trace(caller), trace) for caller, trace in zip(callers[1:], alone[1:], strict=True))
    again = desk.submit(requests[0], is_watched=True)
    desk.drain()
    assert same_bits(desk.trace(again), alone[0])
    assert leftovers(desk.engine) == []


def test_what_a_reward_model_made_of_a_reply_is_gone_with_it(kit: Kit) -> None:
    """NaN in its keys and values makes that reply unguided, says so, and spoils no other in the same slot."""
    reward = reward_model(kit, 3)
    token = kit.base.tokenizer("日", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        reward.backbone.get_input_embeddings().weight[token] = math.nan
    desk, requests, alone = _asked_of(kit.models(reward_model=reward))
    sick = desk.submit(replace(requests[0], messages=talk("日" + "Q" * 20)[0]))
    desk.drain()
    assert (sick.generated.guided, sick.generated.reason) == (False, "non_finite_reward")
    assert leftovers(desk.engine) == []
    after = desk.submit(requests[0], is_watched=True)
    desk.drain()
    assert after.generated.guided
    assert same_bits(desk.trace(after), alone[0])
