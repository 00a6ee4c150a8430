"""Steering inside transformers' own generate, held against the plain method on many families."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessorList, PreTrainedModel, TopPLogitsWarper

from personalign import Basis
from personalign.basis import Shares
from personalign.bundled import TINY
from personalign.decode import CausalModel, Models, Request, SuccessorHead, load_causal, reference, render
from personalign.decode.load import model_sha256, tokenizer_sha256
from personalign.errors import BasisError, InputError, ModelError, ProfileError
from personalign.integrations import hf
from personalign.integrations.hf import RowAccount, SteeredModel, _Passes
from personalign.learn.served import Serving
from personalign.options import Options
from personalign.types import Fingerprints, Gaussian, Guidance, Message, Noise, Profile
from personalign.words import Axis
from tests.decode.tiny_models import STEERING, D, H, V, bits, random_head, talk, tokenizer

SIZES = {
    "hidden_size": H, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "mistral": SIZES,
    "gemma": SIZES | {"head_dim": 8},
    "gemma2": SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0},
    "cohere": SIZES | {"logit_scale": 0.5},
    "granite": SIZES | {"logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "gpt2": {"n_embd": H, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
TOLERANCE = 1e-4
W = np.array([1.0, -2.0, 0.5])
HELLO, CAT, LONG = talk("hello", "the cat", "Q" * 30)
MANY = 16  # tokens


def network(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    ends = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=V, initializer_range=0.3, **ends, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(requires_grad=False)


def basis_for(causal: CausalModel, head: SuccessorHead | None) -> Basis:
    d = D if head is None else head.num_axes
    axes = tuple(Axis(f"axis{j}", "it", "less", "more") for j in range(d))
    eye = np.eye(d)
    return Basis(
        "it", causal.fingerprints, axes, np.zeros(d), np.ones(d), Gaussian(np.zeros(d), eye), Noise(), eye, STEERING,
        head=None if head is None else head.to_arrays(),
    )  # fmt: skip


@dataclass(frozen=True)
class Kit:
    """A model, its basis, and both ways of steering it: generate's and the plain one."""

    causal: CausalModel
    basis: Basis

    @property
    def steered(self) -> SteeredModel:
        return SteeredModel(self.causal.model, self.causal.tokenizer, self.basis)

    @property
    def models(self) -> Models:
        head = SuccessorHead.from_arrays(self.basis.head)
        return Models(self.causal, head, self.basis.steering, {})

    def person(self, weights: np.ndarray = W, informative: int = 3) -> Profile:
        covariance = self.basis.prior.covariance / 5
        return Profile("ada", self.basis.id, 1, weights, covariance, 3, informative, self.basis.axes)

    def guidance(self, profile: Profile | None, strength: float = 1.0) -> Guidance | None:
        if profile is None:
            return None
        weights = Serving(self.basis, profile.pinned).weights(profile)
        return Guidance(weights, strength)

    def inputs(self, *prompts: Sequence[Message]) -> dict[str, Tensor]:
        """The prompts, padded on the left."""
        ids = [render(self.causal.tokenizer, messages) for messages in prompts]
        width = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
        }

    def plain(self, inputs: dict[str, Tensor], **arguments) -> Any:
        return self.causal.model.generate(**inputs, **(DEFAULTS | arguments))

    def steer(
        self,
        inputs: dict[str, Tensor],
        people: Sequence[Profile | None],
        strength: float = 1.0,
        before: Sequence[Callable[[Tensor, Tensor], Tensor]] = (),
        **arguments,
    ) -> tuple[Any, list[RowAccount]]:
        """Everything that generate returns, and the report; ``before`` are other processors."""
        with self.steered.by(people, strength) as guide:
            out = self.plain(inputs, logits_processor=[*before, guide], **arguments)
        return out, guide.report(out.sequences)

    def drawn(self, sequence: Tensor, inputs: dict[str, Tensor]) -> list[int]:
        """The tokens of a reply, its end included and no padding."""
        tokens = sequence[inputs["input_ids"].shape[1] :].tolist()
        ends = [i for i, token in enumerate(tokens, start=1) if token in self.causal.ends]
        return tokens[: ends[0] if ends else 1 + max(i for i, token in enumerate(tokens) if token)]


DEFAULTS = {
    "max_new_tokens": MANY, "do_sample": False, "return_dict_in_generate": True, "output_scores": True,
    "output_logits": True,
}  # fmt: skip


def make_kit(family: str, seed: int = 0, ends: Sequence[int] = (1,)) -> Kit:
    model, words = network(family, seed), tokenizer()
    model.generation_config.eos_token_id = list(ends)
    fingerprints = Fingerprints(tokenizer_sha256(words), model_sha256(model))
    causal = CausalModel(model, words, fingerprints, family)
    return Kit(causal, basis_for(causal, random_head()))


QUICK = ("llama", "gemma2")  # the plain family, and one that caps its logits; the others are among the slow tests
EVERY_FAMILY = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES]


@pytest.fixture(scope="module", params=EVERY_FAMILY)
def kit(request: pytest.FixtureRequest) -> Kit:
    """Tests that take it run on every family."""
    return make_kit(request.param)


@pytest.fixture(scope="module")
def llama() -> Kit:
    return make_kit("llama")


@pytest.fixture(scope="module")
def tiny() -> Kit:
    return Kit(load_causal(TINY / "base", "cpu"), Basis.load(TINY / "basis"))


# ---------------------------------------------------------------- the plain method


@dataclass(frozen=True)
class Retold:
    """A sequence told again by the plain method, token by token."""

    account: RowAccount
    log_p: float  # Σ log p(token)
    delta: float  # Σ δ(token)
    log_q: float  # Σ log q(token)
    nearest: float  # the smallest distance of the two best tokens


def retell(kit: Kit, messages: Sequence[Message], profile: Profile | None, drawn: Sequence[int]) -> Retold:
    models, request = kit.models, Request(messages, guidance=kit.guidance(profile))
    sums, kl, tilt_kl, changed, nearest = np.zeros(3), 0.0, 0.0, 0, math.inf
    for t, token in enumerate(drawn):
        plain, _ = reference.steered(models, replace(request, guidance=None), drawn[:t])
        tilted, effect = reference.steered(models, request, drawn[:t])
        assert effect is not None, "the head is finite"
        log_p = plain.log_softmax(-1)[token]
        sums += [float(log_p), float(tilted[token] - plain[token]), float(tilted.log_softmax(-1)[token])]
        kl, tilt_kl = kl + effect.kl, tilt_kl + effect.tilt_kl
        changed += int(tilted.argmax() != plain.argmax())
        best = tilted.topk(2).values
        nearest = min(nearest, float(best[0] - best[1]))
    n, guided = len(drawn), profile is not None
    account = RowAccount(guided, None if guided else "no_answers", kl / n, tilt_kl / n, changed / n)
    return Retold(account, *sums.tolist(), nearest)


def assert_accounts_agree(found: RowAccount, expected: RowAccount) -> None:
    assert (found.guided, found.reason) == (expected.guided, expected.reason)
    assert (found.kl, found.tilt_kl) == pytest.approx((expected.kl, expected.tilt_kl), abs=TOLERANCE)
    assert found.changed == pytest.approx(expected.changed)


def assert_is_the_reference(kit: Kit, messages: Sequence[Message], profile: Profile | None, drawn, account) -> int:
    """Token for token up to a tie, and the same account; give the number of ties."""
    plain = reference.generate(kit.models, Request(messages, Options(MANY), kit.guidance(profile)))
    retold = retell(kit, messages, profile, drawn)
    assert_accounts_agree(account, retold.account)
    if tuple(token for token in drawn if token not in kit.causal.ends) != plain.ids:
        assert retold.nearest < TOLERANCE
        return 1
    assert_accounts_agree(
        account, RowAccount(plain.guided, plain.reason, plain.kl, plain.tilt_kl, retold.account.changed)
    )
    return 0


def test_one_greedy_row_is_the_reference(kit: Kit) -> None:
    """A guided generate writes what the plain method writes, and accounts for it alike, on every family."""
    ada, ties, same = kit.person(), 0, []
    for messages in (HELLO, CAT, LONG):
        inputs = kit.inputs(messages)
        out, (account,) = kit.steer(inputs, [ada])
        ties += assert_is_the_reference(kit, messages, ada, kit.drawn(out.sequences[0], inputs), account)
        same.append(out.sequences.tolist() == kit.plain(inputs).sequences.tolist())
    assert not all(same)  # control: it isn't what the base writes
    print(f"near ties: {ties}")  # noqa: T201 - counted in the open


def test_a_padded_batch_is_row_by_row_the_reference(kit: Kit) -> None:
    """Left-padded rows of different people, one of them nobody, are each the plain method's."""
    prompts, people = (HELLO, CAT, LONG, HELLO), (kit.person(), kit.person(-W), None, None)
    inputs = kit.inputs(*prompts)
    out, accounts = kit.steer(inputs, people)
    ties = 0
    for messages, profile, sequence, account in zip(prompts, people, out.sequences, accounts, strict=True):
        ties += assert_is_the_reference(kit, messages, profile, kit.drawn(sequence, inputs), account)
    print(f"near ties: {ties}")  # noqa: T201 - counted in the open


@pytest.mark.slow
def test_the_bundled_model_is_steered_as_in_chat(tiny: Kit) -> None:
    """Real prompts under a strong taste, alone and in one batch, are the plain method's."""
    prompts = talk("I need a hotel in Paris", "Book me a table for two", "What movies are on?")
    weights = np.random.default_rng(0).normal(size=tiny.basis.num_axes)
    people = [tiny.person(2 * weights), tiny.person(-2 * weights), None]
    together = tiny.inputs(*prompts)
    out, accounts = tiny.steer(together, people)
    for messages, profile, sequence, account in zip(prompts, people, out.sequences, accounts, strict=True):
        assert_is_the_reference(tiny, messages, profile, tiny.drawn(sequence, together), account)
        alone = tiny.inputs(messages)
        single, (own,) = tiny.steer(alone, [profile])
        assert_is_the_reference(tiny, messages, profile, tiny.drawn(single.sequences[0], alone), own)
        if profile:  # control
            assert tiny.drawn(single.sequences[0], alone) != tiny.drawn(tiny.plain(alone).sequences[0], alone)


# ---------------------------------------------------------------- bitwise

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"do_sample": True, "top_p": 0.9, "temperature": 0.8},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "drawn beams": {"num_beams": 3, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "penalised": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


def assert_same_bits(found, expected, rows: slice) -> None:
    """The rows' tokens and scores, at all steps that both took."""
    steps = min(len(found.scores), len(expected.scores))
    for t in range(steps):
        assert torch.equal(bits(found.scores[t][rows]), bits(expected.scores[t][rows]))
    width = min(found.sequences.shape[1], expected.sequences.shape[1])
    assert torch.equal(found.sequences[rows, :width], expected.sequences[rows, :width])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("off", ["nobody", "no answers", "paused", "strength 0", "beta 0", "nothing personal"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_row_that_is_off_keeps_every_bit(family: str, off: str, way: str) -> None:
    """Nobody, no answers, paused, strength 0, β 0, nothing personal: plain generate's tokens and scores to the bit."""
    kit = make_kit(family)
    if off == "beta 0":
        kit = Kit(kit.causal, replace(kit.basis, steering=replace(STEERING, beta=0.0)))
    elif off == "nothing personal":
        kit = Kit(kit.causal, replace(kit.basis, shares=Shares(1.0, 0.0)))
    paused = replace(kit.person(), is_paused=True)
    profile = {"nobody": None, "no answers": kit.person(informative=0), "paused": paused}
    people, strength = [profile.get(off, kit.person())] * 2, 0.0 if off == "strength 0" else 1.0
    inputs = kit.inputs(HELLO, CAT)
    torch.manual_seed(7)
    plain = kit.plain(inputs, **WAYS[way])
    torch.manual_seed(7)
    found, accounts = kit.steer(inputs, people, strength, **WAYS[way])
    assert_same_bits(found, plain, slice(None))
    reasons = {"nobody": "no_answers", "strength 0": "strength_zero", "beta 0": "strength_zero"}
    reason = reasons.get(off, off.replace(" ", "_"))
    assert set(accounts) == {RowAccount(guided=False, reason=reason, kl=0.0, tilt_kl=0.0, changed=0.0)}
    torch.manual_seed(7)
    whole = make_kit(family)
    felt, _ = whole.steer(inputs, [whole.person(), None], 1e-3, **WAYS[way])
    with pytest.raises(AssertionError):  # control: a thousandth of a strength is seen
        assert_same_bits(felt, plain, slice(None))


@pytest.mark.parametrize("way", ["greedy", "drawn", "several", "penalised"])
def test_a_neighbour_is_not_felt(kit: Kit, way: str) -> None:
    """Beside guided rows, nobody's row keeps the bits it has in plain generate, the sign of a zero included."""
    inputs = kit.inputs(HELLO, CAT, LONG)

    def negative_zero(_: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(-1, torch.tensor([64]), -0.0)

    torch.manual_seed(7)
    plain = kit.plain(inputs, logits_processor=[negative_zero], **WAYS[way])
    torch.manual_seed(7)
    people = [kit.person(), None, kit.person(-W)]
    found, accounts = kit.steer(inputs, people, before=[negative_zero], **WAYS[way])
    each = len(accounts) // 3
    assert_same_bits(found, plain, slice(each, 2 * each))
    with pytest.raises(AssertionError):  # control: the guided rows do differ
        assert_same_bits(found, plain, slice(0, each))


# ---------------------------------------------------------------- beams, draws and accounts


@pytest.mark.parametrize("way", ["beams", "drawn beams", "several", "drawn"])
def test_every_sequence_is_accounted_for(kit: Kit, way: str) -> None:
    """Mean KL and the share of changed first choices are the plain method's for each sequence returned."""
    prompts, people = (HELLO, CAT, LONG), [kit.person(), kit.person(-W), None]
    inputs = kit.inputs(*prompts)
    torch.manual_seed(1)
    out, accounts = kit.steer(inputs, people, **WAYS[way])
    each = len(accounts) // 3
    for i, account in enumerate(accounts):
        retold = retell(kit, prompts[i // each], people[i // each], kit.drawn(out.sequences[i], inputs))
        assert_accounts_agree(account, retold.account)


def beam_gaps(kit: Kit, inputs: dict[str, Tensor], prompts, people, sequences: Tensor, scores: Tensor, **how) -> float:
    """How far the beams' scores are from the plain method's: (Σ log p + Σ δ) / tokens, or Σ log q / tokens."""
    gaps = []
    for messages, profile, sequence, score in zip(prompts, people, sequences, scores.tolist(), strict=True):
        drawn = kit.drawn(sequence, inputs)
        retold = retell(kit, messages, profile, drawn)
        total = retold.log_q if how.get("renormalize_logits") else retold.log_p + retold.delta
        gaps.append(abs(score - total / len(drawn)))
    return max(gaps)


@pytest.mark.parametrize("how", [{}, {"renormalize_logits": True}], ids=["as they are", "renormalised"])
def test_each_beam_carries_its_own_persons_reward(kit: Kit, how: dict[str, bool], monkeypatch) -> None:
    """Beams of two people with opposite wishes score what the plain method says, each by its own weights and state.

    Controls: the other person's weights, and hidden states that are off by a row, are both found.
    """
    prompts, people = (HELLO, HELLO), [kit.person(), kit.person(-W)]
    inputs = kit.inputs(*prompts)

    def gap(retold_as: Sequence[Profile]) -> float:
        out, _ = kit.steer(inputs, people, num_beams=4, **how)
        return beam_gaps(kit, inputs, prompts, retold_as, out.sequences, out.sequences_scores, **how)

    assert gap(people) < TOLERANCE
    assert gap(people[::-1]) > 100 * TOLERANCE
    take = _Passes.take
    monkeypatch.setattr(_Passes, "take", lambda self: take(self).roll(1, 0))
    assert gap(people) > 10 * TOLERANCE


def test_swapping_two_people_swaps_their_beams(kit: Kit) -> None:
    """Beams of one prompt for two people don't depend on whose come first."""
    inputs, people = kit.inputs(HELLO, HELLO), [kit.person(), kit.person(-W)]
    first, _ = kit.steer(inputs, people, num_beams=3)
    second, _ = kit.steer(inputs, people[::-1], num_beams=3)
    assert first.sequences.tolist() == second.sequences.tolist()[::-1]
    assert first.sequences[0].tolist() != first.sequences[1].tolist()  # control: their wishes differ


@pytest.mark.parametrize("way", ["greedy", "several"])
def test_padding_is_not_accounted_for(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that ended early, and are padded while others go on, count up to their end only.

    Control: with the padding counted, the accounts differ.
    """
    kit = make_kit("llama", ends=[1, *range(20, 50)])
    prompts, people = (HELLO, CAT, LONG), [kit.person(), kit.person(-W), kit.person(2 * W)]
    inputs = kit.inputs(*prompts)

    def differences() -> list[float]:
        torch.manual_seed(3)
        out, accounts = kit.steer(inputs, people, **WAYS[way])
        each = len(accounts) // 3
        drawn = [kit.drawn(sequence, inputs) for sequence in out.sequences]
        assert len({len(tokens) for tokens in drawn}) > 1
        told = [retell(kit, prompts[i // each], people[i // each], tokens) for i, tokens in enumerate(drawn)]
        return [abs(found.kl - expected.account.kl) for found, expected in zip(accounts, told, strict=True)]

    assert max(differences()) < TOLERANCE
    monkeypatch.setattr(hf.GenerateSteer, "_drawn", lambda _, tokens: tokens)
    assert max(differences()) > TOLERANCE


def test_a_row_that_a_stop_string_ended_is_read_up_to_its_padding(llama: Kit) -> None:
    """Nothing that pads a row counts, whatever ended it."""
    inputs = llama.inputs(HELLO, CAT)
    whole, _ = llama.steer(inputs, [llama.person()] * 2)
    first = llama.drawn(whole.sequences[0], inputs)
    stop = llama.causal.tokenizer.decode(first[2:4])
    out, accounts = llama.steer(inputs, [llama.person()] * 2, stop_strings=[stop], tokenizer=llama.causal.tokenizer)
    ended = llama.drawn(out.sequences[0], inputs)
    assert len(ended) < len(first)
    assert_accounts_agree(accounts[0], retell(llama, HELLO, llama.person(), ended).account)


CALLS: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "all positions": {"logits_to_keep": 0},
    "static cache": {"cache_implementation": "static"},
    "other processors": {"min_new_tokens": 5, "bad_words_ids": [[17]], "repetition_penalty": 1.1},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generates_other_arguments_work(llama: Kit, call: str, beams: int) -> None:
    """Whatever the cache and the other processors, people are steered and accounted for."""
    inputs, people = llama.inputs(HELLO, CAT), [llama.person(), None]
    out, accounts = llama.steer(inputs, people, num_beams=beams, **CALLS[call])
    assert [account.guided for account in accounts] == [True, False]
    assert accounts[0].kl > 0
    if "processors" not in call:
        usual, before = llama.steer(inputs, people, num_beams=beams)
        assert out.sequences.tolist() == usual.sequences.tolist()
        assert_accounts_agree(accounts[0], before[0])


def test_prompts_may_be_embeddings(llama: Kit) -> None:
    """A batch given as inputs_embeds comes back without its prompt, and is accounted for."""
    inputs, people = llama.inputs(HELLO, CAT), [llama.person(), llama.person(-W)]
    usual, before = llama.steer(inputs, people, num_beams=2)
    embedded = llama.causal.model.get_input_embeddings()(inputs["input_ids"])
    out, after = llama.steer(inputs | {"inputs_embeds": embedded, "input_ids": None}, people, num_beams=2)
    width = inputs["input_ids"].shape[1]
    assert out.sequences.tolist() == usual.sequences[:, width:].tolist()
    for found, expected in zip(after, before, strict=True):
        assert_accounts_agree(found, expected)


# ---------------------------------------------------------------- the order of the stack


def _first(kit: Kit, profile: Profile | None, **arguments) -> tuple[Tensor, Tensor]:
    """The first step's raw logits and final scores."""
    out, _ = kit.steer(kit.inputs(LONG), [profile], max_new_tokens=1, **arguments)
    return out.logits[0][0], out.scores[0][0]


def test_the_penalty_acts_before_the_reward(llama: Kit) -> None:
    """The short list is chosen and tilted from penalised scores, not penalised once tilted.

    Control: the same processors in the other order give other scores.
    """
    penalty, prompt = 1.7, llama.inputs(LONG)["input_ids"]
    logits, found = _first(llama, llama.person(), repetition_penalty=penalty)
    _, unpenalised = _first(llama, llama.person())

    def penalised(scores: Tensor) -> Tensor:
        seen = scores[prompt[0]]
        return scores.scatter(0, prompt[0], torch.where(seen < 0, seen * penalty, seen / penalty))

    request = Request(LONG, guidance=llama.guidance(llama.person()))
    _, hidden = reference.read(llama.causal, prompt[0].tolist())
    best, scores, _ = reference.by_successor_head(llama.models, request, hidden, penalised(logits))
    expected = torch.full_like(logits, -math.inf).index_copy(0, best, scores)
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert not torch.allclose(found, penalised(unpenalised), atol=TOLERANCE)


def test_top_p_acts_after_the_reward(llama: Kit) -> None:
    """The nucleus is that of the tilted short list; the base's own would be another (the control)."""
    logits, tilted = _first(llama, llama.person())
    _, found = _first(llama, llama.person(), do_sample=True, top_p=0.6)
    cut = TopPLogitsWarper(0.6)
    assert torch.equal(found, cut(None, tilted[None])[0])
    assert not torch.equal(found.isfinite(), cut(None, logits[None])[0].isfinite())


def test_temperature_acts_after_the_reward(llama: Kit) -> None:
    """The tilt is that of temperature 1, divided with everything else."""
    _, tilted = _first(llama, llama.person())
    _, found = _first(llama, llama.person(), do_sample=True, temperature=0.5)
    assert torch.equal(found, tilted / 0.5)


def test_a_constraint_wins(llama: Kit) -> None:
    """What prefix_allowed_tokens_fn rules out is never drawn, even where it leaves less than a short list."""
    allowed = [40, 41, 42]
    inputs = llama.inputs(HELLO)
    out, (account,) = llama.steer(inputs, [llama.person()], prefix_allowed_tokens_fn=lambda *_: allowed)
    assert set(llama.drawn(out.sequences[0], inputs)) <= set(allowed)
    assert account.guided
    assert account.kl > 0
    unbound, _ = llama.steer(inputs, [llama.person()])
    assert not set(llama.drawn(unbound.sequences[0], inputs)) <= set(allowed)  # control


# ---------------------------------------------------------------- always


def _hasty(family: str) -> tuple[Kit, Profile]:
    """A kit whose reward wants the end at once, more than any bound of ours would let it."""
    kit, head = make_kit(family), random_head()
    with torch.no_grad():  # ψ(h, v) is P e_v along the end's own embedding, whatever h
        for value in head.parameters():
            value.zero_()
        head.direction.bias[0] = 20 * head.rank**0.5
        head.projection.weight[0] = kit.causal.output_embedding[1]
    steering = replace(STEERING, beta=1.0, clip=400.0, num_candidates=V)
    kit = Kit(kit.causal, replace(basis_for(kit.causal, head), steering=steering))
    return kit, kit.person(np.array([1.0, 0, 0]))


@pytest.mark.parametrize("way", ["greedy", "beams", "several"])
def test_a_guided_reply_is_never_empty(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the base's own first token isn't the end, the end isn't drawn first, however much it is wished."""
    kit, eager = _hasty("llama")
    inputs = kit.inputs(HELLO)
    out, _ = kit.steer(inputs, [eager], **WAYS[way])
    replies = [kit.drawn(sequence, inputs) for sequence in out.sequences]
    assert all(reply[0] != 1 for reply in replies)
    assert any(reply[1:2] == [1] for reply in replies)  # control: the wish is granted as soon as it may be
    monkeypatch.setattr(hf, "not_empty", lambda scores, *_: scores)
    out, _ = kit.steer(inputs, [eager], **WAYS[way])
    assert kit.drawn(out.sequences[0], inputs) == [1]  # control: without the rule it is granted at once


def test_a_base_that_ends_at_once_may_do_so_when_guided() -> None:
    """The rule holds back no reply that the model itself would leave empty."""
    kit, eager = _hasty("llama")
    inputs = kit.inputs(HELLO)
    first = kit.drawn(kit.plain(inputs, max_new_tokens=1).sequences[0], inputs)
    ending = make_kit("llama", ends=[1, *first])
    _, scores = _first_of(ending, replace(kit.basis, fingerprints=ending.causal.fingerprints), eager)
    assert scores[first[0]].isfinite()
    _, others = _first_of(kit, kit.basis, eager)
    assert others[1].isinf()  # control: of a base that wouldn't, the end is held back


def _first_of(kit: Kit, basis: Basis, profile: Profile) -> tuple[Tensor, Tensor]:
    kit = Kit(kit.causal, basis)
    out, _ = kit.steer(kit.inputs(HELLO), [replace(profile, basis_id=basis.id)], max_new_tokens=1)
    return out.logits[0][0], out.scores[0][0]


def test_a_reward_that_overflows_harms_its_own_rows_only_and_is_told(llama: Kit) -> None:
    """A non-finite Q makes its person's rows unguided, says so, and changes no bit of anyone's."""
    anything = Gaussian(np.zeros(D), 1e80 * np.eye(D))  # a prior whose people are bounded by nothing
    kit = Kit(llama.causal, replace(llama.basis, prior=anything))
    broken, inputs = kit.person(np.array([3e38, -3e38, 3e38])), kit.inputs(HELLO, CAT)
    for way in ("greedy", "beams"):
        found, accounts = kit.steer(inputs, [broken, kit.person()], **WAYS[way])
        healthy, expected = kit.steer(inputs, [None, kit.person()], **WAYS[way])
        assert {a.reason for a in accounts[: len(accounts) // 2]} == {"non_finite_reward"}
        assert accounts[len(accounts) // 2 :] == expected[len(accounts) // 2 :]
        assert_same_bits(found, healthy, slice(None))
        assert all(account.guided for account in expected[len(accounts) // 2 :])  # control


def test_the_operators_pins_hold_here_too(llama: Kit) -> None:
    """A profile that comes with pins is served as in chat; unpinned it is served otherwise (the control)."""
    inputs, ada = llama.inputs(HELLO), llama.person()
    pinned = replace(ada, pinned={axis.name: 0.0 for axis in llama.basis.axes})
    _, (account,) = llama.steer(inputs, [pinned])
    _, (free,) = llama.steer(inputs, [ada])
    assert account.guided
    assert account.changed == account.tilt_kl == 0 < account.kl  # the cut to the short list remains
    assert free.tilt_kl > 0


@pytest.mark.parametrize("beams", [1, 3])
def test_a_reward_that_fails_late_is_told(llama: Kit, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first non-finite reward on a sequence is written without guidance, and keeps the KL it had."""
    calls, inner = [], SuccessorHead.inner

    def fails_at_2(head: SuccessorHead, hidden: Tensor) -> Tensor:
        calls.append(1)
        return inner(head, hidden) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(SuccessorHead, "inner", fails_at_2)
    out, (account,) = llama.steer(llama.inputs(HELLO), [llama.person()], num_beams=beams)
    assert (account.guided, account.reason) == (False, "non_finite_reward")
    assert account.kl > 0
    short = [int(scores.isfinite().sum(-1).max()) < V for scores in out.scores]
    assert short == [True, True, *[False] * (len(short) - 2)]


def test_a_failed_beam_stays_unguided_wherever_it_goes(llama: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the descendants of the row whose reward failed lose their guidance, in whichever rows they live on."""
    beams, step, failed, calls, inner = 4, 12, 1, [], SuccessorHead.inner

    def fails_once(head: SuccessorHead, hidden: Tensor) -> Tensor:
        calls.append(1)
        direction = inner(head, hidden)
        direction[failed if len(calls) == step + 1 else slice(0)] = math.nan
        return direction

    monkeypatch.setattr(SuccessorHead, "inner", fails_once)
    how = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": 2.0}
    out, accounts = llama.steer(llama.inputs(HELLO), [llama.person()], 0.01, **how)
    moved = 0
    for account, rows in zip(accounts, out.beam_indices.tolist(), strict=True):
        fell = rows[step] == failed
        assert account.guided is not fell
        steps = [(t, row) for t, row in enumerate(rows) if row >= 0]  # −1 where it had ended
        wide = [bool(out.scores[t][row].isfinite().sum() == V) for t, row in steps]
        assert wide == [fell and t >= step for t, _ in steps]
        moved += fell and {row for t, row in steps if t > step} != {failed}
    assert {account.guided for account in accounts} == {True, False}  # control: some fell, some didn't
    assert moved  # control: some lived on in other rows


# ---------------------------------------------------------------- what is refused


def hooks(kit: Kit) -> int:
    return len(kit.causal.output_layer._forward_pre_hooks)


def test_a_basis_of_another_model_is_refused(llama: Kit) -> None:
    """Other weights, other words, no head, or a head of another size: a BasisError each."""
    model, words = llama.causal.model, llama.causal.tokenizer
    SteeredModel(model, words, llama.basis)  # control
    with pytest.raises(BasisError, match="model loaded"):
        SteeredModel(network("llama", 7), words, llama.basis)
    with pytest.raises(BasisError, match="tokenizer loaded"):
        SteeredModel(model, tokenizer(template="{{ messages }}"), llama.basis)
    with pytest.raises(BasisError, match="the basis has none"):
        SteeredModel(model, words, replace(llama.basis, head=None))
    with pytest.raises(BasisError, match="16 hidden dimensions"):
        SteeredModel(model, words, replace(llama.basis, head=random_head(hidden=16).to_arrays()))


def test_a_model_without_an_output_layer_is_refused(llama: Kit) -> None:
    """A backbone alone writes no tokens."""
    with pytest.raises(ModelError, match="no output layer"):
        SteeredModel(llama.causal.model.model, llama.causal.tokenizer, llama.basis)


def test_people_who_do_not_fit_are_refused(llama: Kit) -> None:
    """Nobody at all, a profile of another basis, NaN, and a strength out of range."""
    steered, ada = llama.steered, llama.person()
    with pytest.raises(InputError, match="no profiles"):
        steered.by([])
    with pytest.raises(ProfileError, match="belongs to basis"):
        steered.by([replace(ada, basis_id="0" * 64)])
    with pytest.raises(ProfileError, match="NaN"):
        steered.by([None, replace(ada, mean=W * math.nan)])
    with pytest.raises(InputError, match="strength"):
        steered.by([ada], strength=-1.0)


def _contrasted(model, input_ids: Tensor, logits_processor, **arguments) -> Tensor:
    """As contrastive search does: candidates are read in rows of their own before one row is scored."""
    logits = model(input_ids.repeat_interleave(4, 0)).logits[:1, -1]
    return logits_processor(input_ids, logits)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "assisted": ({"assistant_model": network("llama", 1)}, "0 forward passes"),
    "prompt lookup": ({"prompt_lookup_num_tokens": 3}, "0 forward passes"),
    "classifier-free guidance": ({"guidance_scale": 2.0}, "2 forward passes"),
    "chunked prefill": ({"prefill_chunk_size": 4, "cache_implementation": "dynamic"}, "forward passes"),
    "contrastive": ({"custom_generate": _contrasted}, "no contrastive search"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_rows_that_the_model_did_not_read_one_by_one_are_refused(llama: Kit, call: str) -> None:
    """Where hidden states and scores don't pair, nothing is written, and the hook is gone all the same."""
    arguments, complaint = REFUSED[call]
    inputs = llama.inputs(talk("the cat sat on the mat, the cat sat on the")[0])
    with pytest.raises(InputError, match=complaint):
        llama.steer(inputs, [llama.person()], **arguments)
    assert hooks(llama) == 0
    llama.steer(inputs, [llama.person()])  # control


def test_a_profile_for_each_prompt(llama: Kit) -> None:
    """Fewer or more profiles than prompts are refused, also where the numbers could be beams."""
    inputs, ada = llama.inputs(HELLO, CAT), llama.person()
    for people in ([ada], [ada] * 3):
        with pytest.raises(InputError, match="for each prompt"):
            llama.steer(inputs, people)
    llama.steer(inputs, [ada] * 2)  # control


def test_a_steer_that_was_not_passed_is_told(llama: Kit) -> None:
    """A call that would have been silently unguided is an error."""
    inputs = llama.inputs(HELLO)
    with pytest.raises(InputError, match="no token was steered"), llama.steered.by([llama.person()]):
        llama.plain(inputs)
    assert hooks(llama) == 0


def test_a_guide_is_for_one_call_inside_its_block(llama: Kit) -> None:
    """A second call, and one after the with block, are refused."""
    inputs = llama.inputs(HELLO)
    with llama.steered.by([llama.person()]) as guide:
        out = llama.plain(inputs, logits_processor=LogitsProcessorList([guide]))
        with pytest.raises(InputError, match="one generate call for each steer"):
            llama.plain(inputs, logits_processor=[guide])
    with pytest.raises(InputError, match="0 forward passes"):
        llama.plain(inputs, logits_processor=[guide])
    assert guide.report(out.sequences)[0].guided  # control


def test_other_sequences_are_not_accounted_for(llama: Kit) -> None:
    """A report is only on what was steered."""
    inputs = llama.inputs(HELLO, CAT)
    with llama.steered.by([llama.person()] * 2) as guide:
        with pytest.raises(InputError, match="0 steered steps"):
            guide.report(inputs["input_ids"])
        out = llama.plain(inputs, logits_processor=[guide]).sequences
    assert len(guide.report(out)) == 2  # control
    for wrong in (out.flip(0), out[:1], torch.cat([out, out], dim=1)):
        with pytest.raises(InputError, match="in the with block"):
            guide.report(wrong)


def test_the_hook_is_gone_after_an_error(llama: Kit) -> None:
    """A call that fails leaves the model as it was, and the next one works."""
    inputs = llama.inputs(HELLO)

    def fail(*_: object) -> Tensor:
        raise RuntimeError("the caller's own fault")

    with llama.steered.by([llama.person()]) as guide:
        assert hooks(llama) == 1  # control
        llama.plain(inputs, logits_processor=[guide])
    with pytest.raises(RuntimeError, match="own fault"), llama.steered.by([llama.person()]) as guide:
        llama.plain(inputs, logits_processor=[guide, fail])
    assert hooks(llama) == 0
    llama.steer(inputs, [llama.person()])


def test_one_guide_at_a_time_on_a_model(llama: Kit) -> None:
    """A guide inside another on the same model is refused, and leaves the outer one whole."""
    inputs = llama.inputs(HELLO)
    expected, _ = llama.steer(inputs, [llama.person()])
    with llama.steered.by([llama.person()]) as guide:
        with pytest.raises(InputError, match="another call"), llama.steered.by([None]):
            pass
        found = llama.plain(inputs, logits_processor=[guide])
    assert_same_bits(found, expected, slice(None))
    assert hooks(llama) == 0


# ---------------------------------------------------------------- threads


def _meanwhile(work: Callable[[], object]) -> Callable[[Tensor, Tensor], Tensor]:
    """A processor that has something else done in another thread, between a forward pass and its steering."""

    def processor(_: Tensor, scores: Tensor) -> Tensor:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return scores

    return processor


def test_plain_calls_in_other_threads_are_not_felt(llama: Kit) -> None:
    """While one thread is steered, others use the model as it is; in the same thread they would be in the way."""
    inputs, other = llama.inputs(HELLO), llama.inputs(CAT)
    expected, plain = llama.steer(inputs, [llama.person()])[0], llama.plain(other)
    seen = []

    def interfere() -> None:
        seen.append(llama.plain(other, max_new_tokens=2))

    with llama.steered.by([llama.person()]) as guide:
        found = llama.plain(inputs, logits_processor=[_meanwhile(interfere), guide])
    assert_same_bits(found, expected, slice(None))
    assert_same_bits(seen[-1], plain, slice(None))
    with pytest.raises(InputError, match="3 forward passes"), llama.steered.by([llama.person()]) as guide:  # control
        llama.plain(inputs, logits_processor=[lambda _, scores: interfere() or scores, guide])


def test_a_call_in_a_thread_of_its_own_is_steered(llama: Kit) -> None:
    """As streaming does: the with block stays here, generate runs elsewhere."""
    inputs, found = llama.inputs(HELLO), []
    expected, _ = llama.steer(inputs, [llama.person()])
    with llama.steered.by([llama.person()]) as guide:
        _meanwhile(lambda: found.append(llama.plain(inputs, logits_processor=[guide])))(None, None)
    assert_same_bits(found[0], expected, slice(None))


def test_two_models_in_two_threads_do_not_interfere() -> None:
    """Each thread writes what it writes alone, again and again."""
    kits = [make_kit("llama"), make_kit("llama", seed=1)]
    inputs = [kit.inputs(HELLO, CAT) for kit in kits]
    people = [[kit.person(), None] for kit in kits]
    alone = [kit.steer(i, p)[0] for kit, i, p in zip(kits, inputs, people, strict=True)]
    assert alone[0].sequences.tolist() != alone[1].sequences.tolist()  # control
    failures: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for _ in range(5):
                assert_same_bits(kits[k].steer(inputs[k], people[k])[0], alone[k], slice(None))
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
