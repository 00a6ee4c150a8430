"""Roll-outs: what they record is what the model did, and a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personalign.decode import Models, load_causal, load_expert
from personalign.decode.load import render
from personalign.train.basis.rollouts import KeptEmbedder, Rollouts, roll_out
from personalign.train.plans import Plan
from tests.decode.tiny_models import Kit, network, save_adapter, saved, talk, tokenizer
from tests.train.crowd import embed

PROMPTS = [
    *talk("the cat sat", "on the mat", "and the hat"),
    [{"role": "user", "content": "hat?"}, {"role": "assistant", "content": "mat"}, {"role": "user", "content": "cat"}],
]
PLAN = Plan(
    replies_per_prompt=6,
    max_tokens=12,
    num_candidates=5,
    expert="hotels",
    alphas=(0.0, 0.5, 1.0),
    seed=3,
    latest_forced=8,
    rows=7,  # several shards from a handful of replies
)
ARRAYS = ("prompt", "complete", "alpha", "forced_at", "reply", "position", "token", "hidden")


@pytest.fixture(scope="module")
def models(kit: Kit) -> Models:
    return kit.models(head=None)


@pytest.fixture(scope="module")
def written(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    return roll_out(models, PROMPTS, PLAN, tmp_path_factory.mktemp("rollouts"))


def same(one: Rollouts, other: Rollouts) -> bool:
    return one.text == other.text and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ARRAYS)


def model_only(kit: Kit, written: Rollouts, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hidden states of a plain forward pass over reply i, at the positions its tokens were drawn from."""
    prompt = render(kit.base.tokenizer, PROMPTS[written.prompt[i]])
    tokens = written.token[written.reply == i].tolist()
    output = kit.base.model(input_ids=torch.tensor([prompt + tokens]), output_hidden_states=True)
    drawn_from = slice(len(prompt) - 1, len(prompt) - 1 + len(tokens))
    return output.logits[0, drawn_from], output.hidden_states[-1][0, drawn_from]


def test_every_prompt_gets_its_replies_of_each_kind(written: Rollouts) -> None:
    """The plan's number of replies a prompt, the α's in equal shares, all tokens in order."""
    assert np.bincount(written.prompt).tolist() == [PLAN.replies_per_prompt] * len(PROMPTS)
    for i in range(len(PROMPTS)):
        assert sorted(written.alpha[written.prompt == i]) == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert len(written.text) == len(written.prompt)
    for i in range(len(written.text)):
        assert written.position[written.reply == i].tolist() == list(range((written.reply == i).sum()))
    assert written.hidden.shape == (len(written.token), 32)


def test_what_an_earlier_run_left_is_kept(models: Models, written: Rollouts, tmp_path: Path) -> None:
    """A run whose shards are partly gone writes these again, to the same arrays, and leaves the others alone."""
    assert same(roll_out(models, PROMPTS, PLAN, tmp_path), written)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in shards}
    assert len(shards) == 4
    shards[1].unlink()
    assert same(roll_out(models, PROMPTS, PLAN, tmp_path), written)
    assert {path for path in shards if path.stat().st_mtime_ns != before[path]} == {shards[1]}


Run = tuple[Models, list, Plan]


def another_base(kit: Kit) -> Models:
    return kit.models(
        head=None, base=load_causal(saved(kit.folder / "another", network("llama", 9), tokenizer()), "cpu")
    )


def another_adapter(kit: Kit) -> Models:
    """Under the same name, on the same small model."""
    folder = save_adapter(kit.folder / "tuned anew" / "hotels", network("llama", 1), 8)
    return kit.models(head=None, experts={"hotels": load_expert(folder, load_causal(kit.folder / "small", "cpu"))})


def whole_model(kit: Kit) -> Models:
    """Under the same name, a tuned model in place of an adapter."""
    return kit.models(head=None, experts={"hotels": kit.experts["whole"]})


CHANGES: dict[str, Callable[[Kit, Models], Run]] = {
    "seed": lambda _, models: (models, PROMPTS, replace(PLAN, seed=4)),
    "temperature": lambda _, models: (models, PROMPTS, replace(PLAN, temperature=0.5)),
    "alphas": lambda _, models: (models, PROMPTS, replace(PLAN, alphas=(0.0, 0.25, 1.0))),
    "prompts": lambda _, models: (models, [*PROMPTS[:-1], PROMPTS[-1][:1]], PLAN),
    "order of prompts": lambda _, models: (models, PROMPTS[::-1], PLAN),
    "base": lambda kit, _: (another_base(kit), PROMPTS, PLAN),
    "adapter": lambda kit, _: (another_adapter(kit), PROMPTS, PLAN),
    "kind of expert": lambda kit, _: (whole_model(kit), PROMPTS, PLAN),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.slow
def test_what_another_plan_left_is_not_used(kit: Kit, models: Models, tmp_path: Path, change: str) -> None:
    """After a change of plan, prompts or models all is written anew, as in an empty folder; changed back, none is."""
    before = roll_out(models, PROMPTS, PLAN, tmp_path / "used")
    old = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    run = CHANGES[change](kit, models)
    found = roll_out(*run, tmp_path / "used")
    assert same(found, roll_out(*run, tmp_path / "empty"))
    assert not same(found, before)  # control: the change matters
    assert same(roll_out(models, PROMPTS, PLAN, tmp_path / "used"), before)
    assert {path: path.stat().st_mtime_ns for path in old} == old


def test_a_run_killed_within_a_shard_goes_on(models: Models, written: Rollouts, tmp_path: Path) -> None:
    """A shard counts as written only when all of it is there."""
    roll_out(models, PROMPTS, PLAN, tmp_path)
    (shard,) = tmp_path.rglob("00002.safetensors")
    shard.rename(shard.with_suffix(".partial"))
    assert same(roll_out(models, PROMPTS, PLAN, tmp_path), written)


def test_forced_tokens_come_from_the_short_list(kit: Kit, written: Rollouts) -> None:
    """A forced position holds one of the K likeliest tokens, and not always the likeliest; one a reply at most."""
    ranks, others = [], []
    for i in np.flatnonzero(written.alpha == 0):
        logits, _ = model_only(kit, written, i)
        tokens = torch.from_numpy(written.token[written.reply == i])
        rank = (logits > logits.gather(1, tokens[:, None])).sum(1)
        forced = torch.from_numpy(written.is_forced[written.reply == i])
        assert forced.sum() == (written.forced_at[i] >= 0)
        ranks += rank[forced].tolist()
        others += rank[~forced].tolist()
    assert len(ranks) >= 3
    assert max(ranks) < PLAN.num_candidates
    assert max(others) >= PLAN.num_candidates  # control: free draws aren't bound to it


def test_hidden_states_are_those_of_a_plain_forward_pass(kit: Kit, written: Rollouts) -> None:
    """Recorded under padding, cache and experts, they are the base model's own for that text."""
    for i in range(len(written.text)):
        _, hidden = model_only(kit, written, i)
        recorded = torch.from_numpy(written.hidden[written.reply == i]).float()
        torch.testing.assert_close(recorded, hidden, atol=5e-3, rtol=5e-3)
        if len(hidden) > 1:  # control: one position off would show
            assert (recorded[1:] - hidden[:-1]).abs().max() > 0.1


def test_the_end_is_a_token_like_others(kit: Kit, written: Rollouts) -> None:
    """A reply has the end token as its last if it ended by itself, and nowhere otherwise."""
    assert 0 < written.complete.sum() < len(written.complete)  # control: both kinds are there
    for i, complete in enumerate(written.complete):
        tokens = written.token[written.reply == i].tolist()
        ended = kit.base.ends[0] in tokens
        assert ended == complete
        assert tokens.count(kit.base.ends[0]) == int(complete)
        assert complete == (tokens[-1] == kit.base.ends[0])
        assert complete or len(tokens) == PLAN.max_tokens
        assert kit.base.tokenizer.decode(tokens, skip_special_tokens=True) == written.text[i]


def test_natural_replies_are_the_models_own(kit: Kit, written: Rollouts, models: Models, tmp_path: Path) -> None:
    """Neither an expert nor a forced token in them; without either in the plan all are natural."""
    natural = written.natural
    assert 0 < natural.sum() < len(natural)
    assert not written.alpha[natural].any()
    assert not np.isin(written.reply[written.is_forced], np.flatnonzero(natural)).any()
    plain = replace(PLAN, expert=None, alphas=(0.0,), forced_share=0.0, replies_per_prompt=1)
    assert roll_out(models, PROMPTS, plain, tmp_path).natural.all()


def test_two_sets_of_roll_outs_add_up(written: Rollouts) -> None:
    """Every token of the second set still points at its own reply."""
    both = written + written
    n = len(written.text)
    assert both.text == written.text * 2
    for i in (0, n - 1):
        assert np.array_equal(both.token[both.reply == n + i], written.token[written.reply == i])
    assert np.array_equal(both.is_forced, np.tile(written.is_forced, 2))


ASKED = [({"role": "user", "content": text},) for text in ("one", "two", "one", "one")]
REPLIES = ["a", "a", "b", "a"]


class Counting:
    """An embedder that counts what it reads, and may be stopped."""

    def __init__(self, most: int = 100) -> None:
        self.read, self.most = 0, most

    def __call__(self, prompts, replies) -> np.ndarray:
        if self.read + len(replies) > self.most:
            raise KeyboardInterrupt
        self.read += len(replies)
        return embed(prompts, replies)


def test_a_reply_is_embedded_once(tmp_path: Path) -> None:
    """To one prompt; the second call reads nothing, and both give what the embedder alone gives."""
    counting = Counting()
    kept = KeptEmbedder(counting, tmp_path, "model")
    first, second = (kept(ASKED, REPLIES) for _ in range(2))
    assert counting.read == 3
    assert np.array_equal(first, embed(ASKED, REPLIES))
    assert np.array_equal(second, first)


def test_another_model_reads_anew(tmp_path: Path) -> None:
    """What is kept is kept for one model and embedder."""
    for model, read in (("model", 3), ("other", 3), ("model", 0)):
        counting = Counting()
        KeptEmbedder(counting, tmp_path, model)(ASKED, REPLIES)
        assert counting.read == read


def test_a_killed_embedder_goes_on(tmp_path: Path) -> None:
    """With the block that it hadn't finished."""
    with pytest.raises(KeyboardInterrupt):
        KeptEmbedder(Counting(most=2), tmp_path, "model", rows=2)(ASKED, REPLIES)
    counting = Counting()
    assert np.array_equal(
        KeptEmbedder(counting, tmp_path, "model", rows=2)(ASKED, REPLIES),
        embed(ASKED, REPLIES),
    )
    assert counting.read == 1
