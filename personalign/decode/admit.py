"""From a request to what an engine writes: it is checked, rendered for every model that reads it, and compiled."""

from __future__ import annotations

from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel, render
from personalign.decode.models import Models
from personalign.decode.request import Request, check_guidance
from personalign.decode.reward_model import RewardModel
from personalign.decode.seq import Outbox, RewardPrompt, Seq, Stack
from personalign.errors import BasisError, InputError


def admit(models: Models, request: Request, number: int, outbox: Outbox, *, is_streamed: bool = False) -> Seq:
    """Check a request and turn it into what an engine writes; any thread may do so."""
    options = request.options
    options.check_vocabulary(models.num_tokens)
    expert, alpha = models.expert(options)
    _check_guidance(models, request)
    prompt = _prompt(models.base, request)
    stack = None if expert is None else Stack(expert, alpha, _prompt(expert, request))
    reward, guidance = models.reward_model, models.reward_guidance(request)
    asked = None if reward is None or guidance is None else RewardPrompt(_prompt(reward, request), guidance)
    is_free = options.schema is None and options.regex is None
    matcher = None if is_free else models.constrainer.compile(options.schema, options.regex)
    return Seq(number, request, prompt, stack, asked, matcher, models.base, outbox, is_streamed=is_streamed)


def _check_guidance(models: Models, request: Request) -> None:
    is_args, guidance, reward = request.options.rule == "args", request.guidance, models.reward_model
    if is_args and request.is_shadow:
        raise InputError(
            'the rule "args" can\'t follow in shadow what the model draws: it reads its own candidates alone; use '
            '"successor", or leave shadow mode'
        )
    if is_args and reward is None:
        raise InputError(
            'the rule "args" asks a reward model, and there is none; open with reward=PATH, or use "successor"'
        )
    if guidance is None:
        return
    if is_args and reward is not None:
        check_guidance(guidance, len(guidance.weights) if reward.num_axes == 1 else reward.num_axes)
    elif models.head is None:
        raise BasisError("guidance needs a successor head, and the basis has none; train one, or pass no guidance")
    else:
        check_guidance(guidance, models.head.num_axes)


def _prompt(reader: CausalModel | Expert | RewardModel, request: Request) -> list[int]:
    room = None if reader.context is None else reader.context - request.options.max_tokens
    return render(reader.tokenizer, request.messages, max_prompt_tokens=room)
