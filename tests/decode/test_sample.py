"""Temperature, top-k, top-p, min-p, draw: in this order, each row by its own seed, wherever its slot is."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from personalign.decode import reference, sample
from personalign.decode.sample import RowSampler, best_first, draw, shares, uniforms
from personalign.decode.slots import Slots
from personalign.options import Options
from tests.decode.tiny_models import bits

CPU = torch.device("cpu")
P = torch.tensor([0.5, 0.3, 0.15, 0.05])
CUTS = [
    Options(temperature=1.0, seed=0),
    Options(temperature=0.3, seed=0),
    Options(temperature=4.0, top_k=7, seed=0),
    Options(temperature=1.0, top_p=0.7, seed=0),
    Options(temperature=1.5, min_p=0.1, seed=0),
    Options(temperature=1.0, top_k=1, seed=0),
    Options(temperature=2.0, top_k=20, top_p=0.5, seed=0),
    Options(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, seed=0),
    Options(temperature=1.0, top_k=10000, top_p=1e-09, seed=0),
    Options(temperature=1.0, min_p=1.0, seed=0),
]


def _logits(rows: int, size: int = 300, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def _settings(samplings: list[Options]) -> Tensor:
    rows = [[s.temperature, s.top_k, s.top_p, s.min_p] for s in samplings]
    return torch.tensor(rows, dtype=torch.float64)


def _distribution(logits: Tensor, samplings: list[Options]) -> Tensor:
    weighed = shares(logits, _settings(samplings)).double()
    return weighed / weighed.sum(-1, keepdim=True)


def _warped(logits: Tensor, sampling: Options) -> Tensor:
    """The distribution (1, V) that transformers draws from."""
    for is_on, warper in (
        (True, TemperatureLogitsWarper(sampling.temperature)),
        (sampling.top_k > 0, TopKLogitsWarper(max(1, sampling.top_k))),
        (sampling.top_p < 1, TopPLogitsWarper(sampling.top_p)),
        (sampling.min_p > 0, MinPLogitsWarper(sampling.min_p)),
    ):
        logits = warper(None, logits) if is_on else logits
    return logits.softmax(-1)


def _drawn(temperature: float, top_p: float, num: int = 2000, **cuts: float) -> list[float]:
    """How often each of four tokens is drawn."""
    settings = _settings([Options(temperature=temperature, top_p=top_p, **cuts)] * num)
    ids = draw(P.log().expand(num, 4), torch.linspace(0, 1, num + 1, dtype=torch.float64)[:-1], settings)
    return (torch.bincount(ids, minlength=4) / num).tolist()


def _expected(temperature: float, kept: int) -> list[float]:
    p = (P.log() / temperature).softmax(-1)[:kept]
    return [*(p / p.sum()).tolist(), *[0.0] * (4 - kept)]


# ---------------------------------------------------------------- one draw


def test_draws_follow_the_distribution() -> None:
    """At temperature 1 and top-p 1 every token comes as often as it is likely."""
    assert _drawn(1.0, 1.0) == pytest.approx(P.tolist(), abs=2e-3)


def test_draws_go_by_the_order_of_the_ids() -> None:
    """A small random number draws a small id, so that a draw doesn't hang on how nearly equal tokens are sorted."""
    logits = P.flip(0).log()[None]
    for u, token in ((0.0, 0), (0.049, 0), (0.051, 1), (0.49, 2), (0.51, 3), (0.999, 3)):
        uniform = torch.tensor([u], dtype=torch.float64)
        assert draw(logits, uniform, _settings([Options(temperature=1.0, seed=0)])).item() == token


@pytest.mark.parametrize("sampling", CUTS)
def test_the_distribution_is_that_of_transformers(sampling: Options) -> None:
    """On random logits what is left after every cut has the probabilities that generate() would draw with."""
    logits = _logits(20)
    ours = _distribution(logits, [sampling] * 20)
    theirs = torch.cat([_warped(row[None], sampling) for row in logits])
    assert torch.allclose(ours, theirs.double(), atol=1e-6)
    assert torch.equal(ours > 1e-9, theirs > 1e-9)


def test_another_setting_is_seen_by_the_comparison_above() -> None:
    """Control: a tenth more temperature, one token more or less, or the cuts the other way round differ."""
    logits = _logits(20)
    for one, other in (
        (Options(temperature=1.0, seed=0), Options(temperature=1.1, seed=0)),
        (Options(temperature=1.0, top_k=7, seed=0), Options(temperature=1.0, top_k=8, seed=0)),
        (Options(temperature=1.0, top_p=0.7, seed=0), Options(temperature=1.0, top_p=0.75, seed=0)),
        (Options(temperature=1.0, min_p=0.1, seed=0), Options(temperature=1.0, min_p=0.2, seed=0)),
    ):
        ours = _distribution(logits, [one] * 20)
        theirs = torch.cat([_warped(row[None], other) for row in logits])
        assert not torch.allclose(ours, theirs.double(), atol=1e-6)


def test_top_p_counts_what_top_k_left() -> None:
    """Of 0.5 and 0.3 the first holds 0.625 and reaches 0.6 alone; before top-k it wouldn't have."""
    assert _drawn(1.0, 0.6, top_k=2) == [1, 0, 0, 0]
    assert _drawn(1.0, 0.6) == pytest.approx(_expected(1.0, 2), abs=2e-3)  # control


@pytest.mark.parametrize("sampling", [CUTS[i] for i in (0, 2, 3, 4, 7)])
def test_many_draws_have_the_frequencies_of_the_distribution(sampling: Options) -> None:
    """A chi-square test finds nothing in 20,000 draws, but does where the temperature is half as high again."""
    num, logits = 20_000, _logits(1, 40)
    ids = draw(logits.expand(num, 40), uniforms(1, [], num), _settings([sampling] * num))
    seen = torch.bincount(ids, minlength=40)
    warmer = replace(sampling, temperature=1.5 * sampling.temperature)
    expected, wrong = (_warped(logits, s)[0].double() * num for s in (sampling, warmer))
    assert not seen[expected == 0].any()
    common = expected > 5

    def p_value(model: Tensor) -> float:
        model = model[common] * seen[common].sum() / model[common].sum()
        return chisquare(seen[common], model).pvalue

    assert p_value(expected) > 0.01
    assert p_value(wrong) < 1e-6


def test_draws_are_those_of_the_reference() -> None:
    """A mixed batch draws, row by row, what the plain words of the reference do."""
    samplings = [replace(s, seed=i) for i, s in enumerate(CUTS * 40)]
    logits, u = _logits(len(samplings), seed=1), uniforms(3, [], len(samplings))
    ids = draw(logits, u, _settings(samplings))
    plain = [reference.drawn(row, s, x) for row, s, x in zip(logits, samplings, u.tolist(), strict=True)]
    assert ids.tolist() == plain
    assert ids.tolist() != draw(logits, u.flip(0), _settings(samplings)).tolist()  # control


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    """0.5 + 0.3 reaches 0.6, so two tokens are left; a tiny top-p leaves the best one."""
    assert _drawn(1.0, 0.6) == pytest.approx(_expected(1.0, 2), abs=2e-3)
    assert _drawn(1.0, 1e-9) == [1, 0, 0, 0]


def test_the_temperature_comes_before_top_p() -> None:
    """At temperature 3 the best two hold less than 0.65, so a third stays; the other order would keep two."""
    warm = (P.log() / 3).softmax(-1)
    assert warm[:2].sum() < 0.65 < P[:2].sum()  # the two orders differ here, or this test proves nothing
    assert _drawn(3.0, 0.65) == pytest.approx(_expected(3.0, 3), abs=2e-3)
    assert _drawn(3.0, 0.65) != pytest.approx(_expected(3.0, 2), abs=2e-3)


def test_ties_are_cut_the_same_everywhere() -> None:
    """All tokens as good as the k-th stay; of equal ones top-p takes the lowest ids."""
    flat = torch.zeros(1, 10)
    settings = [Options(temperature=1.0, top_k=3, seed=0), Options(temperature=1.0, top_p=0.35, seed=0)]
    by_k, by_p = (_distribution(flat, [s])[0] for s in settings)
    assert by_k.tolist() == pytest.approx([0.1] * 10)
    assert by_p.tolist() == pytest.approx([0.25] * 4 + [0.0] * 6)


def test_temperature_0_takes_the_best_whatever_the_random_number() -> None:
    """Greedy rows ignore seed and cuts, beside rows that don't."""
    samplings = [Options(), Options(temperature=1.0, seed=0), Options(top_p=0.1, top_k=2)]
    for u in (0.0, 0.5, 1 - 1e-12):
        ids = draw(P.log().expand(3, 4), torch.full((3,), u).double(), _settings(samplings))
        assert ids[[0, 2]].tolist() == [0, 0]


def test_a_temperature_of_almost_0_is_greedy() -> None:
    """No temperature is so small that it overflows."""
    for temperature in (1e-3, 1e-30, 1e-300, 5e-324):
        sampling, logits = Options(temperature=temperature, seed=0), _logits(1)
        for u in (0.0, 0.5, 1 - 2**-53):
            drawn = draw(logits, torch.tensor([u], dtype=torch.float64), _settings([sampling]))
            assert drawn.item() == logits.argmax() == reference.drawn(logits[0], sampling, u)


def test_what_is_ruled_out_is_never_drawn() -> None:
    """A token at −∞ isn't drawn even by the first or last random number there is."""
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]])
    for u in (0.0, 0.9999999, 1 - 2**-53):
        for sampling in (Options(temperature=2.0, seed=0), Options(temperature=2.0, top_k=4, top_p=0.999, seed=0)):
            drawn = draw(logits, torch.tensor([u], dtype=torch.float64), _settings([sampling])).item()
            assert drawn in {1, 3}
            assert drawn == reference.drawn(logits[0], sampling, u)


def test_a_row_of_nan_draws_some_token_and_leaves_its_neighbours_alone() -> None:
    """Whoever reports the broken row, an id outside the vocabulary would break every row on a GPU."""
    logits = _logits(3)
    settings, u = _settings([CUTS[7]] * 3), uniforms(0, [], 3)
    healthy = draw(logits, u, settings)
    logits[1] = math.nan
    broken = draw(logits, u, settings)
    assert 0 <= broken[1] < logits.shape[-1]
    assert broken[[0, 2]].tolist() == healthy[[0, 2]].tolist()


def test_random_numbers_depend_on_the_seed_alone() -> None:
    """More tokens or another request don't change a request's random numbers."""
    assert torch.equal(uniforms(7, [], 3), uniforms(7, [], 300)[:3])
    assert not torch.equal(uniforms(7, [], 3), uniforms(8, [], 3))
    assert not torch.equal(uniforms(7, [1, 2], 3), uniforms(7, [1, 3], 3))
    assert not torch.equal(uniforms(7, [1], 3), uniforms(7 + 2**32, [1], 3))  # all bits of a seed count


# ---------------------------------------------------------------- the cuts, against counting


def _kept(logits: list[float], share: list[int], k: int, p: float) -> set[int]:
    """What top-k and top-p leave, in whole numbers, by walking down from the best token."""
    best = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    best = [i for i in best if logits[i] >= logits[best[min(k or len(best), len(best)) - 1]]]
    enough = math.ceil(p * sum(share[i] for i in best))
    kept, reached = set(), 0
    for i in best:
        if reached >= enough:
            break
        kept.add(i)
        reached += share[i]
    return kept


def _case(rng: np.random.Generator, rows: int = 8) -> tuple[Tensor, list[Options]]:
    """Rows of one length: smooth or full of ties, all equal, with some or all but one ruled out, far apart or close."""
    size = int(rng.choice([1, 2, 3, 17, 64, 300]))
    kinds = [
        lambda: 3 * rng.standard_normal(size),
        lambda: rng.integers(-2, 3, size) * 0.5,
        lambda: np.full(size, rng.choice([-7.5, -0.0, 0.0, 1e30])),
        lambda: rng.choice([-0.0, 0.0, 1e-45, -1e-45, 1e-38], size),
        lambda: rng.choice([-1e30, -1.0, 0.0, 30.0, 3e38], size),
        lambda: (
            np.nextafter(np.float32(rng.integers(-3, 4)), np.float32(rng.choice([-9, 9])), dtype=np.float32)
            + rng.integers(0, 2, size)
        ),
    ]
    logits = np.empty((rows, size), np.float32)
    for row in logits:
        row[:] = kinds[rng.integers(len(kinds))]()
        row[rng.random(size) < rng.choice([0, 0, 0.3, 1])] = -math.inf
        row[rng.integers(size)] = rng.integers(-2, 3)  # at least one token is possible
    samplings = [
        Options(
            temperature=float(rng.choice([0.001, 0.7, 1.0, 10.0])),
            top_k=int(rng.choice([0, 1, 2, rng.integers(1, size + 1), size, size + 5])),
            top_p=float(rng.choice([1.0, 1.0, 0.5, 1e-300, 1e-09, 1 - 2 ** (-53), 1 - rng.random()])),
            seed=0,
        )
        for _ in range(rows)
    ]
    return torch.from_numpy(logits), samplings


def _num_rows_cut_otherwise(num: int, seed: int = 0) -> int:
    """In how many of 8 num random rows the cuts leave other tokens, or other shares of them, than counting does."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for logits, samplings in (_case(rng) for _ in range(num)):
        settings = _settings(samplings)
        whole, cut = shares(logits, settings, is_cut=False), shares(logits, settings)
        for row, s, before, after in zip(logits.tolist(), samplings, whole.tolist(), cut.tolist(), strict=True):
            kept = _kept(row, [int(x) for x in before], s.top_k, s.top_p)
            wrong += after != [x if i in kept else 0 for i, x in enumerate(before)]
    return wrong


@pytest.mark.parametrize("few", [1, 2, 5, 1024])
def test_what_the_cuts_leave_is_what_counting_leaves(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 8,000 random rows, most with ties, top-k and top-p keep the same tokens, bit for bit, as plain counting."""
    monkeypatch.setattr(sample, "FEW", few)
    assert _num_rows_cut_otherwise(1000) == 0


def test_too_few_ranked_tokens_are_seen_by_the_comparison_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: where the few best are taken to be enough in every row, rows differ."""
    spares = sample._spares
    monkeypatch.setattr(sample, "FEW", 2)
    monkeypatch.setattr(
        sample, "_spares", lambda *parts: (spares(*parts)[0], torch.ones(len(parts[0]), dtype=torch.bool))
    )
    assert _num_rows_cut_otherwise(100) > 10


def test_another_order_of_ties_is_seen_by_the_comparison_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: where the highest ids of equally good tokens come first, or -0 counts as less than 0, rows differ."""

    def highest_first(logits: Tensor, n: int) -> Tensor:
        return logits.shape[-1] - 1 - best_first(logits.flip(-1), n)

    def by_bits(logits: Tensor, n: int) -> Tensor:
        return best_first(torch.where((logits == 0) & logits.signbit(), -1e-45, logits), n)

    for wrong in (highest_first, by_bits):
        monkeypatch.setattr(sample, "best_first", wrong)
        assert _num_rows_cut_otherwise(300) > 10


def test_a_cpu_ranks_as_a_stable_sort_does() -> None:
    """Every float32 finds its place, however the logits lie in memory; float64 goes through torch's own sort."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 2**32, (4, 20_000), dtype=np.uint32).view(np.float32)
    patterns = torch.from_numpy(np.where(np.isnan(patterns), np.float32(0), patterns))
    for logits in (
        patterns,
        patterns.bfloat16().float(),
        patterns.t()[:5],
        patterns[:, ::3],
        patterns[:1].expand(3, -1),
    ):
        expected = logits.double().sort(descending=True, stable=True).indices
        for n in (1, 7, logits.shape[-1]):
            assert torch.equal(best_first(logits, n), expected[:, :n])
            assert torch.equal(best_first(logits.double(), n), expected[:, :n])
            assert torch.equal(best_first(logits.bfloat16(), n), best_first(logits.bfloat16().double(), n))


def test_a_large_batch_is_cut_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are ranked at a time, each is cut as before."""
    samplings = [s for s in CUTS if s.top_k or s.top_p < 1] * 2
    logits, settings, seen = _logits(len(samplings)), _settings(samplings), []
    whole = shares(logits, settings)
    unlikely = sample.unlikely
    monkeypatch.setattr(sample, "unlikely", lambda logits, *rest: seen.append(len(logits)) or unlikely(logits, *rest))
    for block, expected in ((1, [1] * 12), (1500, [5, 5, 2]), (2**17, [12])):
        seen.clear()
        monkeypatch.setattr(sample, "BLOCK", block)
        assert torch.equal(shares(logits, settings), whole)
        assert seen == expected


# ---------------------------------------------------------------- rows that come and go

SLOTS, SIZE, LIMIT = 5, 300, 12
PROMPT = (3, 1, 4, 1, 5)
MIXED = [
    Options(LIMIT, temperature=1.0, seed=5, top_k=40, frequency_penalty=1.5, logit_bias={9: 4.0}),
    Options(LIMIT),
    Options(LIMIT, temperature=1.3, seed=6),
    Options(LIMIT, temperature=0.8, seed=7, top_p=0.8, min_p=0.01, repetition_penalty=1.3, logprobs=3),
    Options(LIMIT, presence_penalty=2.0),
]


def _sampler(device: str = "cpu") -> RowSampler:
    slots = Slots(SLOTS, torch.device(device))
    sampler = RowSampler(slots, SIZE, LIMIT)
    sampler.slots = slots
    return sampler


def _step(sampler: RowSampler, logits: Tensor) -> tuple[Tensor, Tensor]:
    adjusted = sampler.adjust(logits)
    tokens = sampler.draw(adjusted)
    sampler.note(tokens, torch.ones(len(logits), dtype=torch.bool, device=logits.device))
    return adjusted, tokens


def _alone(sampling: Options, steps: list[Tensor], slot: int) -> list[tuple[Tensor, int]]:
    """What a request gets in a sampler of its own, at the same batch shape, beside rows of nothing."""
    sampler = _sampler()
    sampler.admit(slot, sampling, PROMPT)
    seen = [_step(sampler, logits) for logits in steps]
    return [(adjusted[slot], int(tokens[slot])) for adjusted, tokens in seen]


STEPS = [_logits(SLOTS, SIZE, seed) for seed in range(LIMIT)]


def test_a_mixed_batch_is_each_row_alone_bit_for_bit() -> None:
    """Neither a neighbour's settings nor its presence change a row's logits or tokens."""
    sampler = _sampler()
    for slot, sampling in enumerate(MIXED):
        sampler.admit(slot, sampling, PROMPT)
    together = [_step(sampler, logits) for logits in STEPS]
    for slot, sampling in enumerate(MIXED):
        for (adjusted, tokens), (row, token) in zip(together, _alone(sampling, STEPS, slot), strict=True):
            assert torch.equal(bits(adjusted[slot]), bits(row))
            assert tokens[slot] == token
    other = _alone(replace(MIXED[2], seed=60), STEPS, 2)  # control: the comparison sees another seed
    assert [token for _, token in other] != [int(tokens[2]) for _, tokens in together]


def test_rows_may_join_move_and_leave_at_any_step() -> None:
    """A reply is the same whoever comes and goes beside it, and wherever it is moved to."""
    mine = MIXED[3]
    own = [logits[3] for logits in STEPS]
    expected = [token for _, token in _alone(mine, STEPS, 3)]

    def written(*, is_moved: bool) -> list[int]:
        sampler, slot, tokens = _sampler(), 3, []
        sampler.admit(0, MIXED[0], (7,))
        sampler.admit(3, mine, PROMPT)
        for i, logits in enumerate(STEPS):
            if i == 4:
                sampler.admit(4, MIXED[2], ())
            if i == 5:
                sampler.slots.release(0)
            if i == 6 and is_moved:
                sampler.slots.move(3, 0)
                slot = 0
            if i == 8:
                sampler.admit(1, MIXED[4], (9, 9))
            rows = logits.flip(0).clone()
            rows[slot] = own[i]
            tokens.append(int(_step(sampler, rows)[1][slot]))
        return tokens

    assert written(is_moved=False) == written(is_moved=True) == expected
    restarted = _alone(mine, STEPS[6:], 3)  # control: a move that forgot the place in the reply would be noticed
    assert [token for _, token in restarted] != expected[6:]


def test_a_slot_keeps_nothing_of_a_request_that_left() -> None:
    """After release and move every buffer of a slot is as new, and so is the next request's reply."""
    sampler = _sampler()
    for slot, sampling in enumerate(MIXED):
        sampler.admit(slot, sampling, PROMPT)
    for logits in STEPS[:5]:
        _step(sampler, logits)
    buffers = [rows for rows, _ in sampler.slots._buffers]
    assert len(buffers) == 7  # settings, numbers, place; penalties, prompt, counts, bias
    assert all(rows.any() for rows in buffers)  # control: there was something to forget
    sampler.slots.release(0)
    sampler.slots.move(3, 0)
    assert not any(rows[3].any() for rows in buffers)
    for slot in (0, 1, 2, 4):
        sampler.slots.release(slot)
    assert not any(rows.any() for rows in buffers)
    assert sampler.adjust(STEPS[0]) is STEPS[0]
    sampler.admit(2, MIXED[3], PROMPT)
    again = [_step(sampler, logits) for logits in STEPS]
    assert [int(tokens[2]) for _, tokens in again] == [token for _, token in _alone(MIXED[3], STEPS, 2)]


def test_a_row_that_is_not_active_stays_where_it_is() -> None:
    """A token that isn't kept moves neither the place in the reply nor any count."""
    sampler = _sampler()
    sampler.admit(0, MIXED[0], PROMPT)
    first = _step(sampler, STEPS[0][:1])[1]
    for _ in range(2 * LIMIT):
        sampler.note(sampler.draw(STEPS[1][:1]), torch.tensor([False]))
    second = _step(sampler, STEPS[1][:1])[1]
    assert [int(first), int(second)] == [token for _, token in _alone(MIXED[0], [s[:1] for s in STEPS[:2]], 0)]


def test_a_reply_at_its_limit_may_be_stepped_once_more() -> None:
    """Before it is released, a row that has all its tokens disturbs no neighbour."""
    sampler = _sampler()
    sampler.admit(0, MIXED[2], ())
    for logits in STEPS:
        sampler.note(sampler.draw(logits), torch.arange(SLOTS) == 0)
    sampler.admit(3, MIXED[3], PROMPT)
    tokens = [int(_step(sampler, logits)[1][3]) for logits in STEPS]
    assert tokens == [token for _, token in _alone(MIXED[3], STEPS, 3)]
    sampler.index[0] += 1  # control: beyond the limit there is no random number, and no row gets its token
    with pytest.raises(RuntimeError, match="out of bounds"):
        sampler.draw(STEPS[0])


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy requests are never weighed, nothing is sorted without top-k or top-p, no counts are kept for nobody."""
    calls: list[str] = []

    def spy(whole, name, *args, **kwargs):
        calls.append(name)
        return whole(*args, **kwargs)

    for name in ("shares", "unlikely"):
        monkeypatch.setattr(sample, name, partial(spy, getattr(sample, name), name))
    sampler = _sampler()
    for slot, sampling, expected in (
        (0, Options(LIMIT, top_k=3), []),
        (1, Options(LIMIT, temperature=1.0, min_p=0.1, seed=0), ["shares"]),
        (2, Options(LIMIT, temperature=1.0, top_p=0.9, seed=0), ["shares", "unlikely"]),
    ):
        calls.clear()
        sampler.admit(slot, sampling, PROMPT)
        assert sampler.adjust(STEPS[0]) is STEPS[0]
        sampler.draw(STEPS[0])
        assert calls == expected
    assert not any(isinstance(rows, Tensor) and rows.shape[-1] == SIZE for rows in vars(sampler).values())
    sampler.admit(3, Options(LIMIT, logit_bias={1: 1.0}), PROMPT)  # control: now there is such a buffer
    assert any(isinstance(rows, Tensor) and rows.shape[-1] == SIZE for rows in vars(sampler).values())


def test_log_probabilities_are_those_of_the_logits() -> None:
    """The drawn token's and the n likeliest, of the rows that ask for them only."""
    sampler = _sampler()
    sampler.admit(1, MIXED[3], ())
    sampler.admit(2, MIXED[1], ())
    tokens = sampler.draw(STEPS[0])
    logprobs = sampler.logprobs(STEPS[0], tokens, [1, 2])
    log_p = STEPS[0].log_softmax(-1)[1]
    best = log_p.topk(3)
    assert logprobs.keys() == {1}
    assert (logprobs[1].id, logprobs[1].logprob) == (int(tokens[1]), float(log_p[tokens[1]]))
    assert logprobs[1].top == tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    assert sampler.logprobs(STEPS[0], tokens, [2]) == {}


def test_everything_is_on_the_device() -> None:
    """A step mixes no tensors of the CPU in, which torch's meta device refuses as CUDA does."""
    sampler = _sampler("meta")
    for slot, sampling in enumerate(MIXED):
        sampler.admit(slot, sampling, PROMPT)
    adjusted, tokens = _step(sampler, STEPS[0].to("meta"))
    assert adjusted.is_meta
    assert tokens.is_meta
    with pytest.raises(RuntimeError, match="meta"):  # control: logits that were left behind
        _step(sampler, STEPS[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_a_cpu_does() -> None:
    """Rows that come and go get the same tokens and the same adjusted logits on CUDA."""
    samplers = _sampler(), _sampler("cuda")
    for sampler in samplers:
        for slot, sampling in enumerate(MIXED):
            sampler.admit(slot, sampling, PROMPT)
    for logits in STEPS:
        (here, ids), (there, their_ids) = (
            _step(sampler, logits.to(device)) for sampler, device in zip(samplers, ("cpu", "cuda"), strict=True)
        )
        assert torch.allclose(here, there.cpu(), atol=1e-6)
        assert ids.tolist() == their_ids.tolist()
