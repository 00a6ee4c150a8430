"""The successor head learns what can be foreseen, and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personalign.decode import SuccessorHead
from personalign.train.basis import head as module
from personalign.train.basis.head import explained_variance, train_head
from personalign.train.basis.rollouts import Rollouts
from personalign.train.plans import HeadRecipe

N, LENGTH, HIDDEN, VOCABULARY, AXES = 1200, 4, 8, 12, 3
RECIPE = HeadRecipe(rank=6, hidden=48, epochs=120, learning_rate=1e-2)
TRAIN = np.arange(N) < 1000


def embeddings() -> torch.Tensor:
    return torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(1))


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, tokens, and what both make of a reply."""
    rng = np.random.default_rng(0)
    state, token = rng.standard_normal((N, HIDDEN)), rng.integers(VOCABULARY, size=N)
    e = embeddings().numpy()[token]
    return state, token, np.stack([np.tanh(state[:, 0]), e[:, 1], np.tanh(state[:, 2]) * e[:, 3]], 1)


def planted() -> tuple[Rollouts, np.ndarray]:
    """Replies whose every position tells of their features: by the state alone, the token alone, and both together."""
    state, token, raw = drawn()
    features = (raw - raw.mean(0)) / raw.std(0)
    rollouts = Rollouts(
        prompt=np.zeros(N, dtype=np.int64),
        text=("",) * N,
        complete=np.ones(N, dtype=bool),
        alpha=np.zeros(N),
        forced_at=np.full(N, -1),
        reply=np.repeat(np.arange(N), LENGTH),
        position=np.tile(np.arange(LENGTH), N),
        token=np.repeat(token, LENGTH),
        hidden=np.repeat(state, LENGTH, 0).astype(np.float16),
    )
    return rollouts, features


def nothing_yet(rollouts: Rollouts) -> np.ndarray:
    """Nothing is known of what was written before each token."""
    return np.zeros((len(rollouts.token), AXES), dtype=np.float32)


def r2(head: SuccessorHead, rollouts: Rollouts, features: np.ndarray) -> np.ndarray:
    """On the replies that were not learnt from."""
    return explained_variance(head, rollouts, features, embeddings(), ~TRAIN[rollouts.reply])


def test_a_planted_function_is_learnt() -> None:
    """Features of state, token and both together are foreseen on new replies; shuffled ones are not."""
    rollouts, features = planted()
    learnt = train_head(rollouts, features, nothing_yet(rollouts), embeddings(), TRAIN, RECIPE)
    assert r2(learnt, rollouts, features).min() > 0.8

    shuffled = np.random.default_rng(5).permutation(features)
    nothing = train_head(rollouts, shuffled, nothing_yet(rollouts), embeddings(), TRAIN, RECIPE)
    assert r2(nothing, rollouts, shuffled).max() < 0.1  # control: learning by heart counts for nothing


def test_what_is_already_written_does_not_blur_what_a_token_does() -> None:
    """Where earlier text decides most of the features, the head learns the token's part from the rest of them."""
    rollouts, effect = planted()
    earlier = 4 * np.random.default_rng(6).standard_normal(effect.shape)
    features = effect + earlier
    so_far = earlier[rollouts.reply].astype(np.float32)
    clear, blurred = (
        train_head(rollouts, features, written, embeddings(), TRAIN, replace(RECIPE, epochs=30))
        for written in (so_far, nothing_yet(rollouts))
    )

    def explained_by_tokens(head: SuccessorHead) -> float:
        """R² of the token's part, among the tokens that might follow one state."""
        states = torch.from_numpy(rollouts.hidden[: 400 * LENGTH : LENGTH]).float()
        e = embeddings()
        truth = torch.stack([0 * states[:, :1] + e[:, 1], states[:, 2:3].tanh() * e[:, 3]], -1)
        truth = truth / torch.from_numpy(drawn()[2].std(0)[1:]).float()
        with torch.no_grad():
            psi = torch.stack([head(states, row.expand(len(states), -1))[:, 1:] for row in e], 1)
        centred, wanted = psi - psi.mean(1, keepdim=True), truth - truth.mean(1, keepdim=True)
        return float(1 - (centred - wanted).square().sum() / wanted.square().sum())

    assert explained_by_tokens(clear) > 0.6
    assert explained_by_tokens(blurred) < explained_by_tokens(clear) - 0.2  # the control: the rest of it is what helps


def test_only_the_marked_replies_are_learnt_from() -> None:
    """Whatever features the others have, the head comes out bit for bit the same."""
    rollouts, features = planted()
    recipe = replace(RECIPE, epochs=2)
    garbled, spoilt = features.copy(), features.copy()
    garbled[~TRAIN] = 1e6
    spoilt[0] = 10
    heads = [
        train_head(rollouts, f, nothing_yet(rollouts), embeddings(), TRAIN, recipe).to_arrays()
        for f in (features, garbled, spoilt)
    ]
    assert all(np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not all(np.array_equal(heads[0][name], heads[2][name]) for name in heads[0])  # control


def test_explained_variance_is_numpys() -> None:
    """R² = 1 − mean squared error / variance of what was to be foreseen, over the marked tokens."""
    rollouts, features = planted()
    torch.manual_seed(0)
    head = SuccessorHead(HIDDEN, AXES, 6, 16).eval()
    marked = rollouts.position == 2
    with torch.no_grad():
        psi = head(torch.from_numpy(rollouts.hidden[marked]).float(), embeddings()[rollouts.token[marked]]).numpy()
    wanted = features[rollouts.reply[marked]]
    by_hand = 1 - ((psi - wanted) ** 2).mean(0) / wanted.var(0)
    found = explained_variance(head, rollouts, features, embeddings(), marked)
    assert found == pytest.approx(by_hand, abs=1e-4)
    assert explained_variance(head, rollouts, features, embeddings(), rollouts.reply < 50) != pytest.approx(
        by_hand, abs=1e-4
    )  # control: the mark is heeded


@pytest.mark.parametrize("value", [0.3, 1 / 3, -7.1])
def test_where_nothing_varies_nothing_is_to_be_explained(value: float) -> None:
    """An axis that is the same at all marked tokens has no R², whatever the head says of it; the others have theirs."""
    rollouts, features = planted()
    constant = features.copy()
    constant[:, 1] = value
    torch.manual_seed(0)
    head = SuccessorHead(HIDDEN, AXES, 6, 16).eval()
    everywhere = np.ones(len(rollouts.token), dtype=bool)
    found = explained_variance(head, rollouts, constant, embeddings(), everywhere)
    assert np.isnan(found).tolist() == [False, True, False]
    kept = explained_variance(head, rollouts, features, embeddings(), everywhere)
    assert found[[0, 2]] == pytest.approx(kept[[0, 2]])
    assert np.isfinite(kept).all()  # control
    assert np.isnan(explained_variance(head, rollouts, features, embeddings(), ~everywhere)).all()


def test_the_mean_explains_nothing() -> None:
    """A head that says the average everywhere has R² 0: standardised features average to 0."""
    rollouts, features = planted()
    head = SuccessorHead(HIDDEN, AXES, 6, 16).eval()
    for value in head.parameters():
        torch.nn.init.zeros_(value)
    found = explained_variance(head, rollouts, features, embeddings(), np.ones(len(rollouts.token), dtype=bool))
    assert found == pytest.approx(np.zeros(AXES), abs=1e-3)


def test_a_killed_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after five batches it takes the others alone, and ends in the same bytes; so does one that had ended."""
    rollouts, features = planted()
    recipe = replace(RECIPE, epochs=6, checkpoint_every_s=-1.0)
    batches: list[int] = []
    make_batches = module._batches

    def train(folder: str, most: int = 10_000, seed: int = 0) -> dict[str, bytes]:
        batches.clear()

        def counting(*data):
            batch_of = make_batches(*data)

            def count(rows):
                if len(batches) == most:
                    raise KeyboardInterrupt
                batches.append(len(rows))
                return batch_of(rows)

            return count

        monkeypatch.setattr(module, "_batches", counting)
        path = tmp_path / folder / "head.safetensors"
        head = train_head(
            rollouts, features, nothing_yet(rollouts), embeddings(), TRAIN, replace(recipe, seed=seed), path
        )
        return {name: array.tobytes() for name, array in head.to_arrays().items()}

    whole, num_batches = train("whole"), len(batches)
    with pytest.raises(KeyboardInterrupt):
        train("killed", most=5)
    assert (train("killed"), len(batches)) == (whole, num_batches - 5)
    assert (train("killed"), len(batches)) == (whole, 0)
    assert train("other", seed=1) != whole  # control
