"""Known items: planted tastes are found in ratings, foretell people who had no part, and become axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from personalign.errors import InputError
from personalign.learn import predict
from personalign.learn.factors import CERTAIN, Factors, factorise_ratings
from personalign.learn.items import Items, fit_items, foretold, match, normal_scores, pairs_of
from tests.learn.people import Array, cosine

RANK, ITEMS, ODDITY = 3, 30, 0.4


@dataclass(frozen=True, eq=False)
class World:
    """People's ratings, mean + loading · a + oddity, a fifth of them missing; no taste is for all items alike."""

    ratings: Array
    mean: Array
    loading: Array


@cache
def world(people: int = 300, seed: int = 0) -> World:
    planted = np.random.default_rng(0)
    mean = 0.5 * planted.normal(size=ITEMS)
    directions = planted.normal(size=(ITEMS, RANK))
    loading = np.linalg.qr(directions - directions.mean(axis=0))[0] * np.sqrt(ITEMS) * (1.0, 0.8, 0.6)
    rng = np.random.default_rng([seed, 1])
    tastes = rng.normal(size=(people, RANK))
    ratings = mean + tastes @ loading.T + np.sqrt(ODDITY) * rng.normal(size=(people, ITEMS))
    ratings[rng.random(ratings.shape) < 0.2] = np.nan
    return World(ratings, mean, loading)


@cache
def found(rank: int | str = "auto") -> Factors:
    return factorise_ratings(world().ratings, rank)


def share(directions: Array, planted: Array) -> float:
    """How much of the planted directions lies in what these span."""
    inside = np.linalg.qr(directions)[0].T @ planted
    return float((inside**2).sum() / (planted**2).sum())


# ---------------------------------------------------------------- scores and pairs


def test_of_a_persons_ratings_the_order_counts_alone() -> None:
    """On any scale that rises the scores are the same; turned round they change their sign, and are others."""
    ratings = world().ratings
    scores = normal_scores(ratings)
    np.testing.assert_array_equal(normal_scores(100 + 9 * np.exp(ratings)), scores)
    np.testing.assert_allclose(normal_scores(-ratings), -scores)
    assert np.nanmax(np.abs(scores)) > 1.5


def test_what_was_not_rated_has_no_score() -> None:
    """It stays NaN, and says nothing of the others; ratings that are equal have equal scores."""
    scores = normal_scores(np.array([[3.0, np.nan, 1.0, 3.0], [np.nan, np.nan, 5.0, np.nan]]))
    np.testing.assert_array_equal(np.isnan(scores), [[False, True, False, False], [True, True, False, True]])
    assert scores[0, 0] == scores[0, 3] > 0 > scores[0, 2]
    assert scores[1, 2] == 0
    np.testing.assert_array_equal(scores[0, [0, 2, 3]], normal_scores(np.array([[3.0, 1.0, 3.0]]))[0])


def test_a_pair_is_what_a_person_rated_apart() -> None:
    """Each item once a person, only those that they rated, the higher chosen, on either side; equal ones left out."""
    stars = np.clip(np.round(world().ratings + 3), 1, 5)
    pairs = pairs_of(stars)
    for person, row in enumerate(stars):
        mine = pairs.pair[pairs.person == person]
        assert len(np.unique(mine)) == mine.size
        assert not np.isnan(row[mine]).any()
    left, right = (stars[pairs.person, pairs.pair[:, side]] for side in (0, 1))
    assert (left != right).all()
    np.testing.assert_array_equal(pairs.choice == "a", left > right)
    assert 0.45 < (pairs.choice == "a").mean() < 0.55
    most = (~np.isnan(stars)).sum(axis=1) // 2
    np.testing.assert_array_equal(np.bincount(pairs_of(world().ratings).person), most)  # control: none are equal
    assert 0.5 < len(pairs.person) / most.sum() < 0.9


def test_the_same_ratings_give_the_same_pairs() -> None:
    """To the byte; people who rated other items, the control, have others."""
    one, again, other = (pairs_of(world(people, seed).ratings) for people, seed in ((40, 0), (40, 0), (40, 1)))
    assert [part.tolist() for part in one] == [part.tolist() for part in again]
    assert one.pair.tolist() != other.pair.tolist()


def test_nobody_with_a_single_rating_has_a_pair() -> None:
    """Nor does anyone whose ratings are all equal, and a log of them alone has none; the control has one."""
    ratings = np.array([[1.0, np.nan, np.nan], [2.0, 2.0, 2.0], [1.0, 2.0, np.nan]])
    assert pairs_of(ratings).person.tolist() == [2]
    assert pairs_of(ratings[:2]).pair.shape == (0, 2)


def test_no_pair_is_matched_twice() -> None:
    """However many rounds: all fifteen pairs of six items, each once; in one round an item comes once."""
    is_there = np.arange(9) % 3 > 0
    many, once = (match(is_there, rounds, np.random.default_rng(0)) for rounds in (60, 1))
    assert len(many) == len({frozenset(pair) for pair in many.tolist()}) == 15
    assert set(many.ravel().tolist()) == {1, 2, 4, 5, 7, 8}
    assert sorted(once.ravel().tolist()) == [1, 2, 4, 5, 7, 8]
    assert match(np.arange(9) == 3, 60, np.random.default_rng(0)).shape == (0, 2)


# ---------------------------------------------------------------- what is found


def test_finds_what_was_planted() -> None:
    """Everybody's mean, the directions of taste with their widths, and how odd people and items are."""
    of = world()
    items = fit_items(of.ratings, RANK)
    assert cosine(items.mean, of.mean) > 0.97
    assert share(items.loading, of.loading) > 0.97
    other = np.random.default_rng(5).normal(size=(ITEMS, RANK))
    assert share(other, of.loading) < 0.4  # control
    np.testing.assert_allclose(np.linalg.norm(items.loading, axis=0), np.linalg.norm(of.loading, axis=0), rtol=0.15)
    assert items.oddity == pytest.approx(ODDITY, rel=0.15)


def test_oddity_is_not_taken_for_taste() -> None:
    """Where it is half of what people differ in, directions are as wide as was planted all the same."""
    rng = np.random.default_rng(1)
    loading = np.linalg.qr(rng.normal(size=(12, 2)))[0] * np.sqrt([3.0, 2.0])
    items = fit_items(rng.normal(size=(3000, 2)) @ loading.T + rng.normal(size=(3000, 12)), 2)
    np.testing.assert_allclose((items.loading**2).sum(axis=0), [3, 2], rtol=0.1)
    assert items.oddity == pytest.approx(1, rel=0.05)


def test_a_new_person_is_foretold_best_with_the_planted_directions() -> None:
    """Half of their scores tell the others: three directions better than two, two than one, and one than the mean."""
    met, new = fit_items(world().ratings, RANK), world(80, seed=1).ratings
    is_known = np.random.default_rng(2).random(new.shape) < 0.5
    known, others = np.where(is_known, new, np.nan), np.where(is_known, np.nan, new)
    errors = [foretold(fit_items(world().ratings, rank), known, others) for rank in (3, 2, 1)]
    mean_alone = foretold(Items(met.mean, np.zeros((ITEMS, 1)), met.oddity), known, others)
    for better, worse in zip(errors, [*errors[1:], mean_alone], strict=True):
        assert better < 0.9 * worse
    assert errors[0] == pytest.approx(ODDITY, rel=0.5)
    assert foretold(met, known[::-1], others) > mean_alone  # control: half of somebody else's


def test_auto_takes_the_planted_rank() -> None:
    """Of the directions that people differ in none is missed, and no noise is taken for one."""
    assert found().rank == 1 + RANK
    assert share(found().projection[:, 1:], world().loading) > 0.95
    assert found(1).rank == 2
    assert share(found(1).projection[:, 1:], world().loading) < 0.7  # control


def test_the_first_axis_is_what_everybody_likes() -> None:
    """Its weight is 1 for certain; tastes are standard normal, and apart from it."""
    assert cosine(found().projection[:, 0], world().mean) > 0.9
    np.testing.assert_array_equal(found().prior.mean, [1, 0, 0, 0])
    np.testing.assert_array_equal(found().prior.covariance, np.diag([CERTAIN, 1, 1, 1]))


def test_utilities_say_how_often_people_agree() -> None:
    """Someone unknown prefers an item to another about as often as people do; in half the units it is far off."""
    rng = np.random.default_rng(4)
    mean, loading = rng.normal(size=10), 0.3 * rng.normal(size=(10, 1))
    ratings = mean + rng.normal(size=(3000, 1)) @ loading.T + rng.normal(size=(3000, 10))
    factors = factorise_ratings(ratings, 1)
    left, right = np.triu_indices(10, 1)
    v, share = factors.projection[left] - factors.projection[right], (ratings[:, left] > ratings[:, right]).mean(axis=0)
    errors = [np.abs(predict(scale * v, factors.prior, factors.noise) - share).mean() for scale in (1.0, 0.5, 2.0)]
    assert errors[0] < 0.03
    assert min(errors[1:]) > 0.06


def test_held_out_people_are_foretold_the_better_the_more_is_known() -> None:
    """And not at all by tastes where each item's ratings are dealt out to people anew."""
    told = found().held_out
    assert [held.answers for held in told] == [0, 5, 10]
    assert told[0].accuracy + 0.05 < told[1].accuracy < told[2].accuracy
    assert told[2].log_loss < told[1].log_loss < told[0].log_loss
    assert (found().people, found().answers) == (300, int(np.isfinite(world().ratings).sum()))
    dealt = np.random.default_rng(3).permuted(world().ratings, axis=0)
    nobody = factorise_ratings(dealt).held_out
    assert nobody[2].accuracy < nobody[0].accuracy + 0.03


def test_the_same_ratings_give_the_same_axes() -> None:
    """To the byte, on whichever rising scale people rated; another seed draws other people to judge."""
    again = factorise_ratings(np.exp(world().ratings))
    assert again.projection.tobytes() == found().projection.tobytes()
    assert again.held_out == found().held_out
    other = factorise_ratings(world().ratings, RANK, seed=1)
    assert other.projection.tobytes() == found(RANK).projection.tobytes()
    assert other.held_out != found(RANK).held_out


# ---------------------------------------------------------------- what is refused


def test_an_item_that_nobody_rated_lies_in_the_middle() -> None:
    """It is neither liked nor a matter of taste, and the others are as without it."""
    ratings = world(40).ratings.copy()
    ratings[:, 7] = np.nan
    items, others = fit_items(ratings, 2), fit_items(np.delete(ratings, 7, axis=1), 2)
    assert items.mean[7] == 0
    np.testing.assert_allclose(items.loading[7], 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(items.mean, 7), others.mean)
    np.testing.assert_allclose(np.abs(np.delete(items.loading, 7, axis=0)), np.abs(others.loading), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("rank", [-1, 0, ITEMS, ITEMS + 1])
def test_a_rank_that_cannot_be_is_refused(rank: int) -> None:
    """There are fewer directions than items, and one at least."""
    with pytest.raises(InputError, match=f"found rank {rank}, expected 1 to {ITEMS - 1}: fewer than there are"):
        fit_items(world(40).ratings, rank)
    with pytest.raises(InputError, match=f'found rank {rank}, expected "auto" or a whole number from 1 to {ITEMS - 1}'):
        factorise_ratings(world(40).ratings, rank)
    assert fit_items(world(40).ratings, ITEMS - 1).loading.shape == (ITEMS, ITEMS - 1)


@pytest.mark.parametrize("rank", ["many", True])
def test_a_rank_that_is_none_is_refused(rank: int | str) -> None:
    """As it is by ``factorise``."""
    with pytest.raises(InputError, match="found rank"):
        factorise_ratings(world(40).ratings, rank)


def test_people_who_do_not_differ_are_refused() -> None:
    """All gave every item what the others gave; a single one who didn't is enough (the control)."""
    alike = np.tile(np.arange(ITEMS, dtype=float), (40, 1))
    with pytest.raises(InputError, match="all people put the items in the same order; expected people who differ"):
        fit_items(alike, 1)
    with pytest.raises(InputError, match="all people put the items in the same order; expected people who differ"):
        factorise_ratings(np.ones((40, 5)))
    alike[0] = alike[0, ::-1]
    assert fit_items(alike, 1).loading.any()


def test_people_who_all_rank_items_alike_are_refused() -> None:
    """Their scores are equal, whatever their mean is rounded to."""
    with pytest.raises(InputError, match="all people put the items in the same order"):
        factorise_ratings(np.tile(np.arange(ITEMS, dtype=float), (40, 1)), 1)
