"""Steering inside transformers' own ``generate``: one person a prompt; beams, sampling and all else as you call it.

A hook catches what enters the output layer, a logits processor tilts the scores by it. Transformers runs the processors
it is given after its own penalties and constraints, and before its warpers (temperature, top-k, top-p): the method's
order. Replies that join and leave at any step are ``decode``'s business; read ``decode/tilt.py`` for the tilt.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from personalign.basis import Basis
from personalign.decode.load import CausalModel, model_sha256, tokenizer_sha256
from personalign.decode.models import Models
from personalign.decode.request import gain, reason
from personalign.decode.steer import cut_kl, not_empty
from personalign.decode.successor import SuccessorHead, reward
from personalign.decode.tilt import tilt
from personalign.errors import BasisError, InputError
from personalign.learn.served import Serving
from personalign.options import check_number
from personalign.types import Fingerprints, Guidance, Profile, Reason


@dataclass(frozen=True)
class RowAccount:
    """What was done to one sequence, over the tokens drawn for it, the end included.

    ``kl`` is the mean of KL(steered ‖ unsteered) over the whole vocabulary, in nats at temperature 1, ``tilt_kl`` its
    part within the short list, at most clip²/8; ``changed`` is the share of tokens at which another candidate became
    the likeliest. ``reason`` says why a sequence isn't guided, and is None for a guided one: "no_answers" (nothing is
    known of the person), "paused" (they want plain replies for now), "nothing_personal" (the basis knows nothing that
    sets people apart), "strength_zero" (β or strength is 0), or "non_finite_reward" (written without guidance from the
    first such token on).
    """

    guided: bool
    reason: Reason | None
    kl: float
    tilt_kl: float
    changed: float


class SteeredModel:
    """A causal language model of transformers and the successor head of its basis; make it once, for many calls.

    What ends and what pads a sequence is read from the model's ``generation_config``: set it there, not in a call.

    Raises:
        BasisError: the basis belongs to another model or tokenizer, or has no successor head that fits.
        ModelError: the model has no output layer.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, basis: Basis) -> None:
        fingerprints = Fingerprints(tokenizer_sha256(tokenizer), model_sha256(model))
        basis.check_model(fingerprints)
        if basis.head is None:
            raise BasisError("steering needs a successor head, and the basis has none; train one for this model")
        with torch.random.fork_rng(devices=[]):  # a module draws its first weights: the caller's seed stays untouched
            head = SuccessorHead.from_arrays(basis.head)
        if head.num_axes != basis.num_axes:
            raise BasisError(f"the head predicts {head.num_axes} axes, expected {basis.num_axes}; train it again")
        self.basis, self.head, self.causal = basis, head, CausalModel(model, tokenizer, fingerprints, basis.model)
        self.table = Models(self.causal, head, basis.steering).table

    def by(self, people: Sequence[Profile | None], strength: float = 1.0) -> GenerateSteer:
        """Steer one ``generate`` call: each prompt of its batch by the profile in the same place.

        None, or someone who hasn't answered yet, gets the model's own reply. ``strength`` multiplies the calibrated β.

        Raises:
            InputError: there are no people, or the strength is out of its range.
            ProfileError: a profile of another basis, or with NaN.
        """
        check_number("strength", strength, 0.0, 100.0)
        if not people:
            raise InputError("no profiles were given; expected one for each prompt, or None in its place")
        guidance = [self._guidance(profile, strength) for profile in people]
        return GenerateSteer(self, guidance, [profile is not None and profile.is_paused for profile in people])

    def _guidance(self, profile: Profile | None, strength: float) -> Guidance | None:
        if profile is None:
            return None
        self.basis.check_profile(profile)
        return Serving(self.basis, profile.pinned).guidance(profile, strength)


class GenerateSteer(LogitsProcessor):
    """The steer of one ``generate`` call: enter it, pass it as the last logits processor, ask it for its report.

    Rows without guidance pass by selection, never by adding zero, and so keep their bits. Guided scores are a tilted
    short list, −inf elsewhere, and as other processors' they aren't normalised: beams are ranked by log p + Σδ, and
    with ``renormalize_logits=True`` by log q. Drawn beams (``do_sample``) need a short list of (end tokens + 1) ·
    ``num_beams``.
    """

    def __init__(self, steered: SteeredModel, guidance: Sequence[Guidance | None], is_paused: Sequence[bool]) -> None:
        self._steered, self._guidance, self._is_paused = steered, list(guidance), list(is_paused)
        self._gains = [gain(g, steered.basis.steering) for g in guidance]
        self._passes = _Passes()
        self._trail = Trail(len(guidance))
        self._steps: list[Tensor] = []  # (B, 4) each: 1 where guided, both KL in nats, 1 where changed
        self._hook: RemovableHandle | None = None  # set by entering
        self._rows: tuple[Tensor, Tensor] | None = None  # what each row's reward and gain are, set by the first step

    def __enter__(self) -> GenerateSteer:  # noqa: PYI034 - beartype can't read Self on a method
        """Listen at the model's output layer until the with block ends."""
        layer = self._steered.causal.output_layer
        self._hook = layer.register_forward_pre_hook(self._passes)
        # counted after joining, so that two threads that enter at once see each other
        if sum(isinstance(hook, _Passes) for hook in layer._forward_pre_hooks.values()) > 1:  # noqa: SLF001
            self._hook.remove()
            raise InputError(
                "another call is steered on this model now; leave its with block first, or put everyone into one batch"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._hook is not None, "a steer is entered before it is left"
        self._hook.remove()
        if kind is None and not len(self._trail):
            raise InputError(
                "no token was steered; expected model.generate(..., logits_processor=[steer]) in the with block"
            )

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Tilt the scores of guided rows; refuse those of anything but one forward pass a token."""
        hidden = self._passes.take()
        if len(hidden) != len(scores) or len(scores) % len(self._guidance):
            raise InputError(
                f"{len(scores)} rows are to be steered for {len(self._guidance)} profiles, and the model read "
                f"{len(hidden)}; expected a profile, or None, for each prompt, and no contrastive search"
            )
        parents = self._trail.extend(input_ids)
        if not any(self._gains):
            self._steps.append(scores.new_zeros(len(scores), 4))
            return scores
        if self._rows is None:
            self._rows = self._expanded(len(scores) // len(self._guidance), scores.device)
        return self._tilted(*self._rows, scores, hidden, parents)

    def report(self, sequences: Int[Tensor, "N T"]) -> list[RowAccount]:
        """Account for each sequence that ``generate`` returned: ``out``, or ``out.sequences``.

        A sequence ends at its first end token, or where nothing but padding follows.

        Raises:
            InputError: these aren't the sequences of the call that was steered.
        """
        if not len(self._trail) or not len(sequences) or len(sequences) % len(self._guidance):
            raise InputError(
                f"{len(sequences)} sequences are to be accounted for, after {len(self._trail)} steered steps for "
                f"{len(self._guidance)} prompts; expected what generate returned in the with block"
            )
        drawn = [self._drawn(row) for row in sequences[:, self._trail.prompt_length :].tolist()]
        history, accounts = torch.stack(self._steps).cpu(), []
        for i, (tokens, path) in enumerate(zip(drawn, self._trail.paths(drawn), strict=True)):
            if not self._is_filling(tokens[len(path) :]):
                raise InputError(
                    "a sequence isn't one that was steered here; expected what generate returned in the with block"
                )
            accounts.append(self._account(i * len(self._guidance) // len(drawn), history[range(len(path)), path]))
        return accounts

    # Below: steering

    def _expanded(self, num_rows: int, device: torch.device) -> tuple[Float[Tensor, "B R h1"], Float[Tensor, "B"]]:
        """Each person's merged head and gain for all rows of their prompt: beams, or sequences to return."""
        nothing = np.zeros(self._steered.basis.num_axes)
        weights = np.stack([g.weights if g else nothing for g in self._guidance]).repeat(num_rows, axis=0)
        merged = self._steered.head.merged(
            torch.tensor(weights, dtype=torch.float32, device=self._steered.table.device)
        )
        return merged, torch.tensor(self._gains, dtype=torch.float32, device=device).repeat_interleave(num_rows)

    def _tilted(
        self,
        merged: Float[Tensor, "B R h1"],
        strength: Float[Tensor, "B"],
        scores: Float[Tensor, "B V"],
        hidden: Float[Tensor, "B H"],
        parents: Int[Tensor, "B"],
    ) -> Float[Tensor, "B V"]:
        steering, table = self._steered.basis.steering, self._steered.table
        ends = torch.tensor(self._steered.causal.ends, dtype=torch.long, device=scores.device)
        allowed = scores if self._steps else not_empty(scores, None, ends)
        top, candidates = allowed.topk(min(steering.num_candidates, scores.shape[-1]))
        # generate takes prompts on the CPU for a model elsewhere, and then scores there
        rewards = reward(self._steered.head, table, hidden.to(table.device), merged, candidates.to(table.device))
        delta, kl, finite, _ = tilt(top, rewards.to(top.device), strength, steering.clip)
        # a sequence loses its guidance for good at its first reward that isn't finite
        guided = finite & (self._steps[-1][parents, 0] > 0 if self._steps else strength > 0)
        changed = (top + delta).argmax(-1) != 0
        account = torch.stack([torch.ones_like(kl), kl + cut_kl(scores, top), kl, changed.to(kl)], dim=-1)
        self._steps.append(torch.where(guided[:, None], account, 0.0))
        tilted = torch.full_like(scores, -math.inf).scatter(-1, candidates, top + delta)
        return torch.where(guided[:, None], tilted, scores)

    # Below: accounting

    def _drawn(self, tokens: list[int]) -> list[int]:
        """The tokens up to the first end; without one, up to the padding that nothing follows."""
        end = next((i for i, token in enumerate(tokens, start=1) if token in self._steered.causal.ends), None)
        if end is not None:
            return tokens[:end]
        last = max((i for i, token in enumerate(tokens, start=1) if not self._is_filling([token])), default=1)
        return tokens[:last]

    def _is_filling(self, tokens: Sequence[int]) -> bool:
        """Whether generate fills up with these: with padding, or with an end where there is none."""
        causal = self._steered.causal
        return set(tokens) <= {*causal.ends, causal.model.generation_config.pad_token_id}

    def _account(self, person: int, steps: Float[Tensor, "t 4"]) -> RowAccount:
        guided, kl, tilt_kl, changed = steps.double().mean(0).tolist()
        strength = self._gains[person]
        guidance = self._guidance[person]
        why: Reason | None = "population" if guidance is not None and guidance.is_population else None
        if guided != 1:
            why = reason(guidance, strength, is_sound=strength <= 0, is_paused=self._is_paused[person])
        return RowAccount(guided=guided == 1, reason=why, kl=kl, tilt_kl=tilt_kl, changed=changed)


class _Passes(threading.local):
    """A hook that keeps the hidden states of the forward pass before a step, for each thread its own."""

    def __init__(self) -> None:
        self._count = 0
        self._hidden: Tensor | None = None  # (B, H), the last pass's at its last position

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._count += 1
        self._hidden = inputs[0][:, -1]

    def take(self) -> Float[Tensor, "B H"]:
        """Give the hidden states of the one pass since the step before."""
        count, hidden = self._count, self._hidden
        self._count, self._hidden = 0, None
        if count != 1 or hidden is None:
            raise InputError(
                f"{count} forward passes of the model led to this step, expected 1: inside the with block call "
                "generate once, without assisted decoding, guidance_scale or prefill_chunk_size"
            )
        return hidden


class Trail:
    """For each step of a batch and each of its rows: the row before that it continues, and by which token.

    Rows of one prompt, such as beams, change places, fork and stop. The batch holds the first prompt's rows, then the
    second's, and so on, as many for each.
    """

    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._ids: Tensor | None = None  # (B, T), what the rows held at the last step; None before the first
        self._parents: list[Tensor] = []  # (B,) a step
        self._tokens: list[Tensor] = []  # (B,) a step
        self.prompt_length = 0  # set by the first step

    def __len__(self) -> int:
        """How many steps there were."""
        return len(self._parents)

    def extend(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        """Take what the rows hold before a token is drawn; give the row of the step before that each continues."""
        parents = self._begun(ids) if self._ids is None else self._continued(self._ids, ids)
        self._tokens.append(ids[:, -1] if len(self) else torch.zeros_like(parents))
        self._parents.append(parents)
        self._ids = ids
        return parents

    def paths(self, drawn: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """For each sequence, in the order of ``generate``, the rows its tokens were drawn from, while one held it."""
        num_rows = len(self._parents[0]) // self._num_prompts
        steps = list(zip(torch.stack(self._parents).tolist(), torch.stack(self._tokens).tolist(), strict=True))
        for i, tokens in enumerate(drawn):
            first = i * self._num_prompts // len(drawn) * num_rows
            yield _path(steps, range(first, first + num_rows), tokens)

    def _begun(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        rows = self._by_prompt(ids)
        if not (rows == rows[:, :1]).all():
            raise InputError(
                f"the batch has {len(ids)} rows for {self._num_prompts} profiles, and the rows of one profile begin "
                "with different prompts; expected one profile, or None, for each prompt"
            )
        self.prompt_length = ids.shape[1]
        return torch.arange(len(ids), device=ids.device)

    def _continued(self, before: Int[Tensor, "b t"], ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        if ids.shape == (before.shape[0], before.shape[1] + 1):
            now = self._by_prompt(ids[:, :-1])
            same = (now[:, :, None] == self._by_prompt(before)[:, None]).all(-1)  # (prompts, rows, rows before)
            if same.any(-1).all():
                first = torch.arange(self._num_prompts, device=ids.device)[:, None] * same.shape[-1]
                return (same.int().argmax(-1) + first).flatten()
        raise InputError(
            "the rows don't continue those of the step before by a token each; expected one generate call for each "
            "steer: make another for the next"
        )

    def _by_prompt(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "prompts rows T"]:
        return ids.reshape(self._num_prompts, len(ids) // self._num_prompts, ids.shape[1])


def _path(steps: Sequence[tuple[list[int], list[int]]], rows: range, drawn: Sequence[int]) -> list[int]:
    holders, path = list(rows), [rows[0]]
    for (parents, tokens), token in zip(steps[1:], drawn[:-1], strict=False):
        holders = [row for row in rows if tokens[row] == token and parents[row] in holders]
        if not holders:
            break
        path.append(holders[0])
    return path
