"""A request's own settings: penalties and bias; temperature, top-k, top-p, min-p and the draw, each row by its seed.

A draw inverts the distribution in the order of the token ids, at a random number for this request and token. The number
comes from the request's seed and its prompt.
Probabilities are whole numbers of 2⁻⁵², whose sums float64 holds exactly: adding them in another order, as other
devices do, makes no difference.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.slots import Slots
from personalign.options import Options
from personalign.types import TokenLogprobs

UNITS = 2.0**52  # of probability; together they stay below 2⁵³, up to where every whole number is a float64
BLOCK = 2**17  # logits that a CPU ranks at a time: 1 MiB of float64
Penalty = float | Float[Tensor, "B 1"]
FEW = 1024  # tokens that a CPU ranks first; they nearly always reach top-p, and the other logits need no order


def uniforms(seed: int | None, prompt_ids: Sequence[int], count: int, stream: int = 0) -> Float[Tensor, "count"]:
    """A request's random numbers, one a token, whatever else is in the batch and on every device.

    They depend on seed and prompt: by the seed alone, one seed for every request would draw all their first tokens at
    the same quantile. Each sibling has a stream of its own.
    """
    assert seed is not None, "a request has a seed"
    content = np.array([seed, *prompt_ids], dtype="<i8").tobytes()
    salt = stream.to_bytes(hashlib.blake2b.SALT_SIZE, "little")
    mixed = int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=salt).digest(), "little")
    return torch.rand(count, generator=torch.Generator().manual_seed(mixed), dtype=torch.float64)


def shares(
    logits: Float[Tensor, "B V"], settings: Float[Tensor, "B 4"], *, is_cut: bool = True
) -> Float[Tensor, "B V"]:
    """How likely each token is by temperature, top-k, top-p and min-p: whole numbers of 2⁻⁵², not renormalised.

    Settings, in this order, and result are float64. Top-k 0, top-p 1 and min-p 0 are off, and ``is_cut=False`` says
    that the first two are off in every row, which saves a sort. A row at temperature 0 is weighed at temperature 1.
    """
    temperature, top_k, top_p, min_p = settings.unbind(-1)
    scores = logits.to(torch.float64, copy=True)
    # the largest becomes 0, so that no temperature, however small, can overflow
    scores.sub_(scores.amax(-1, keepdim=True)).div_(torch.where(temperature > 0, temperature, 1.0)[:, None])
    ruled_out = scores < min_p.log()[:, None]
    weight = scores.exp_()
    share = weight.mul_(UNITS / weight.sum(-1, keepdim=True)).floor_()
    if is_cut:
        # in blocks of rows that stay in a core's cache; on a GPU all at once
        num_rows = max(1, BLOCK // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
        blocks = zip(*(torch.split(rows, num_rows) for rows in (logits, share, top_k, top_p)), strict=True)
        ruled_out |= torch.cat([unlikely(*block) for block in blocks])
    return share.masked_fill_(ruled_out, 0)


def unlikely(
    logits: Float[Tensor, "B V"], share: Float[Tensor, "B V"], top_k: Float[Tensor, "B"], top_p: Float[Tensor, "B"]
) -> Bool[Tensor, "B V"]:
    """Which tokens aren't among the k best or, of those, not needed by the best to reach top-p together.

    Tokens as good as the k-th are among them; of several as good as each other top-p takes those with the lowest ids.
    """
    size = logits.shape[-1]
    if size > FEW and logits.device.type == "cpu":
        is_cut = (top_k > 0) | (top_p < 1)  # the other rows, in a block with such ones, need no order
        is_spare, is_known = _spares(logits, share, top_k, top_p, best_first(logits, FEW))
        if (is_known | ~is_cut).all():
            return is_spare & is_cut[:, None]
    return _spares(logits, share, top_k, top_p, best_first(logits, size))[0]


def _spares(
    logits: Float[Tensor, "B V"],
    share: Float[Tensor, "B V"],
    top_k: Float[Tensor, "B"],
    top_p: Float[Tensor, "B"],
    order: Int[Tensor, "B n"],
) -> tuple[Bool[Tensor, "B V"], Bool[Tensor, "B"]]:
    """The unlikely tokens by the n best alone, and in which rows these are enough to know them."""
    size, n = logits.shape[-1], order.shape[-1]
    k = torch.where(top_k > 0, top_k, size).clamp_max(size).long()
    last = logits.gather(-1, order.gather(-1, k.clamp_max(n)[:, None] - 1))
    num_best = torch.where(k < size, size - (logits < last).count_nonzero(-1), size)
    reached = share.gather(-1, order).cumsum_(-1)
    best = reached.gather(-1, num_best.clamp_max(n)[:, None] - 1).squeeze(-1)
    enough = (top_p * torch.where(num_best < size, best, share.sum(-1))).ceil()
    is_ranked = ((k <= n) | (k == size)) & ((num_best <= n) | (num_best == size))
    is_known = is_ranked & (reached[:, -1] >= enough)
    # what comes after the token that reaches enough; all beyond the k best does, since these reach enough
    is_spare = torch.arange(n, device=logits.device) > torch.searchsorted(reached, enough[:, None])
    return torch.ones_like(logits, dtype=torch.bool).scatter_(-1, order, is_spare), is_known


def best_first(logits: Float[Tensor, "B V"], n: int) -> Int[Tensor, "B n"]:
    """The ids of the n best in the order of their logits, the best one's first; of equals the lowest first.

    On a CPU torch's stable sort is slow. NumPy's of whole numbers isn't, and where no two are the same it needs no
    stability: the upper half of each is the rank of its logit, the best having the least, and the lower half is its id.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.sort(descending=True, stable=True).indices[:, :n]
    rank = (logits + 0.0).view(torch.int32)  # the sum makes -0 the 0 that it is as good as
    rank.bitwise_xor_((rank >> 31).bitwise_and_(0x7FFFFFFF)).bitwise_not_()  # bits of negative floats rise downwards
    rank_and_id = rank.long().bitwise_left_shift_(32).add_(torch.arange(logits.shape[-1]))
    if n < logits.shape[-1]:
        rank_and_id.numpy().partition(n - 1, axis=-1)
    best = rank_and_id[:, :n]
    best.numpy().sort(-1)
    return best.bitwise_and_(0xFFFFFFFF)


def pick(share: Float[Tensor, "B V"], uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """The token at which the shares, added up in the order of the ids, pass ``uniform`` of them all.

    The sums are written over the shares: another buffer of this size costs more to get than to fill.
    """
    reached = share.cumsum_(-1)
    total = reached[:, -1]
    target = torch.minimum((uniform * total).floor(), total - 1)
    place = torch.searchsorted(reached, target[:, None], right=True).squeeze(-1)
    return place.clamp_max(reached.shape[-1] - 1)  # a row of NaN must not disturb its neighbours


def draw(
    logits: Float[Tensor, "B V"], uniform: Float[Tensor, "B"], settings: Float[Tensor, "B 4"], *, is_cut: bool = True
) -> Int[Tensor, "B"]:
    """Draw one token a row: the best at temperature 0, else by ``pick`` from ``shares``."""
    drawn = pick(shares(logits, settings, is_cut=is_cut), uniform)
    return torch.where(settings[:, 0] > 0, drawn, logits.argmax(-1))


def weakened(
    logits: Float[Tensor, "B V"],
    in_prompt: Bool[Tensor, "B V"],
    counts: Int[Tensor, "B V"],
    penalties: tuple[Penalty, Penalty, Penalty],
) -> Float[Tensor, "B V"]:
    """Logits after the penalties on repetition, presence and frequency; ``counts`` are of the reply's tokens."""
    repetition, presence, frequency = penalties
    in_reply = counts > 0
    weaker = torch.where(logits < 0, logits * repetition, logits / repetition)
    return torch.where(in_prompt | in_reply, weaker, logits) - presence * in_reply - frequency * counts


def strengthened(
    logits: Float[Tensor, "B V"],
    in_prompt: Bool[Tensor, "B V"],
    counts: Int[Tensor, "B V"],
    penalties: tuple[Penalty, Penalty, Penalty],
) -> Float[Tensor, "B V"]:
    """The logits that ``weakened`` makes these of, but for rounding."""
    repetition, presence, frequency = penalties
    in_reply = counts > 0
    logits = logits + presence * in_reply + frequency * counts
    return torch.where(in_prompt | in_reply, torch.where(logits < 0, logits / repetition, logits * repetition), logits)


class RowSampler:
    """Every slot's settings, random numbers and place in its reply, in fixed buffers on the device.

    Requests come, go and move at any step; a step concerns the first b slots, an empty one counting as greedy. The
    order of its calls is ``adjust``, whatever steers in between, ``draw``, ``note``. The penalty on repetition is
    Hugging Face's (arXiv 1909.05858, with the sign of the logit taken into account) over prompt and reply; presence and
    frequency are OpenAI's, over the reply.
    """

    def __init__(self, slots: Slots, num_logits: int, max_new_tokens: int) -> None:
        self._slots, self._num_logits = slots, num_logits
        self._settings = slots.rows(4, dtype=torch.float64)
        self._weakening = slots.rows(5)  # whether it is penalised, the three penalties, whether it is biased
        self._uniforms = slots.rows(max_new_tokens, dtype=torch.float64)
        self.index = slots.rows(dtype=torch.long)  # of the token to be drawn
        self._admitted: dict[int, Options] = slots.values()
        self._penalised: dict[int, bool] = slots.values()
        self._biased: dict[int, bool] = slots.values()

    # large, and so made when the first request needs them

    @cached_property
    def _in_prompt(self) -> Bool[Tensor, "S V"]:
        return self._slots.rows(self._num_logits, dtype=torch.bool)

    @cached_property
    def _counts(self) -> Int[Tensor, "S V"]:
        return self._slots.rows(self._num_logits, dtype=torch.int32)  # in the reply

    @cached_property
    def _bias(self) -> Float[Tensor, "S V"]:
        return self._slots.rows(self._num_logits)

    def admit(self, slot: int, options: Options, prompt_ids: Sequence[int]) -> None:
        """Take a request into an empty slot; the next token drawn there is its first."""
        assert slot not in self._admitted, "a slot is released before it is admitted to"
        assert options.most_tokens <= self._uniforms.shape[1], "a request fits into the buffers"
        device, bias = self._slots.device, options.logit_bias
        settings = (options.temperature, options.top_k, options.top_p, options.min_p)
        self._settings[slot] = torch.tensor(settings, dtype=torch.float64)
        penalties = (options.repetition_penalty, options.presence_penalty, options.frequency_penalty)
        is_penalised = penalties != (1.0, 0.0, 0.0)
        self._weakening[slot] = torch.tensor([is_penalised, *penalties, bool(bias)])
        if options.temperature > 0:
            self.seed(slot, options, prompt_ids)
        if is_penalised:
            self._penalised[slot] = True
            self._in_prompt[slot, torch.tensor(prompt_ids, dtype=torch.long, device=device)] = True
        if bias:
            self._biased[slot] = True
            tokens = torch.tensor(list(bias), dtype=torch.long, device=device)
            self._bias[slot, tokens] = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        self._admitted[slot] = options

    def seed(self, slot: int, options: Options, prompt_ids: Sequence[int], stream: int = 0) -> None:
        """Draw a slot's tokens from here on at the random numbers of one of the request's streams."""
        count = options.most_tokens
        self._uniforms[slot, :count] = uniforms(options.seed, prompt_ids, count, stream)

    def adjust(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Penalties, then bias; rows that have none pass by selection and so keep their bits."""
        b = len(logits)
        is_penalised, repetition, presence, frequency, is_biased = self._weakening[:b, :, None].unbind(1)
        if self._penalised:
            weaker = weakened(logits, self._in_prompt[:b], self._counts[:b], (repetition, presence, frequency))
            logits = torch.where(is_penalised > 0, weaker, logits)
        if self._biased:
            logits = torch.where(is_biased > 0, logits + self._bias[:b], logits)
        return logits

    def draw(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        """Draw the next token of the first b slots."""
        drawn = [options for options in self._admitted.values() if options.temperature > 0]
        if not drawn:
            return logits.argmax(-1)
        b, is_cut = len(logits), any(options.top_k or options.top_p < 1 for options in drawn)
        uniform = self._uniforms[:b].gather(-1, self.index[:b, None]).squeeze(-1)
        return draw(logits, uniform, self._settings[:b], is_cut=is_cut)

    def note(self, tokens: Int[Tensor, "B"], active: Bool[Tensor, "B"]) -> None:
        """Remember what was drawn, in the rows whose reply goes on; they come to their next token."""
        if self._penalised:
            self._counts[: len(tokens)].scatter_add_(-1, tokens[:, None], active[:, None].int())
        # a row whose reply has reached its limit may be stepped once more before it is released
        self.index[: len(tokens)].add_(active).clamp_max_(self._uniforms.shape[1] - 1)

    def logprobs(
        self, logits: Float[Tensor, "B V"], tokens: Int[Tensor, "B"], slots: Iterable[int]
    ) -> dict[int, TokenLogprobs]:
        """Of the slots whose requests ask for them, at temperature 1 before any cut; only tokens that can be drawn."""
        wanted = {slot: n for slot in slots if (n := self._admitted[slot].logprobs)}
        if not wanted:
            return {}
        log_p = logits.log_softmax(-1)
        values, ids = log_p.topk(max(wanted.values()))
        rows = torch.stack([tokens.double(), log_p.gather(-1, tokens[:, None]).squeeze(-1).double()], -1).tolist()
        likeliest = zip(ids.tolist(), values.tolist(), strict=True)
        best = [[(i, p) for i, p in zip(*row, strict=True) if p > -math.inf] for row in likeliest]
        return {s: TokenLogprobs(int(rows[s][0]), rows[s][1], tuple(best[s][:n])) for s, n in wanted.items()}
