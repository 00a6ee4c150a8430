"""From a request to what an engine writes: it is checked, rendered for every model that reads it, and compiled."""

from __future__ import annotations

from personalign.decode.constrain import Matcher
from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel, render
from personalign.decode.models import Models
from personalign.decode.request import Request, check_guidance
from personalign.decode.reward_model import RewardModel
from personalign.decode.seq import Outbox, RewardPrompt, Seq, Stack
from personalign.errors import BasisError, InputError


def admit(models: Models, request: Request, number: int, outbox: Outbox, *, is_streamed: bool = False) -> Seq:
    """Check a request and turn it into what an engine writes; any thread may do so.

    Raises:
        InputError: and its kinds, as ``generate``.
    """
    _check(models, request)
    return Seq(
        number,
        request,
        _prompt(models.base, request),
        _stack(models, request),
        _reward_prompt(models, request),
        _matcher(models, request),
        models.base,
        outbox,
        is_streamed=is_streamed,
    )


def _check(models: Models, request: Request) -> None:
    request.options.check_vocabulary(models.num_tokens)
    if request.options.expert is not None:
        models.expert(request.options.expert)
    if request.options.rule == "args":
        _check_args(models, request)
    elif request.guidance is not None:
        if models.head is None:
            raise BasisError("guidance needs a successor head, and the basis has none; train one, or pass no guidance")
        check_guidance(request.guidance, models.head.num_axes)


def _check_args(models: Models, request: Request) -> None:
    if request.is_shadow:
        raise InputError(
            'the rule "args" can\'t follow in shadow what the model draws: it reads its own candidates alone; use '
            '"successor", or leave shadow mode'
        )
    reward_model = models.reward_model
    if reward_model is None:
        raise InputError(
            'the rule "args" asks a reward model, and there is none; open with reward=PATH, or use "successor"'
        )
    if request.guidance is not None:
        num_axes = len(request.guidance.weights) if reward_model.num_axes == 1 else reward_model.num_axes
        check_guidance(request.guidance, num_axes)


def _prompt(reader: CausalModel | Expert | RewardModel, request: Request) -> list[int]:
    room = None if reader.context is None else reader.context - request.options.max_tokens
    return render(reader.tokenizer, request.messages, max_prompt_tokens=room)


def _stack(models: Models, request: Request) -> Stack | None:
    alpha = models.alpha(request)
    if request.options.expert is None or alpha == 0:
        return None
    expert = models.expert(request.options.expert)
    return Stack(expert, alpha, _prompt(expert, request))


def _reward_prompt(models: Models, request: Request) -> RewardPrompt | None:
    guidance = models.reward_guidance(request)
    if models.reward_model is None or guidance is None:
        return None
    return RewardPrompt(_prompt(models.reward_model, request), guidance)


def _matcher(models: Models, request: Request) -> Matcher | None:
    if request.options.schema is None and request.options.regex is None:
        return None
    return models.constrainer.compile(request.options.schema, request.options.regex)
