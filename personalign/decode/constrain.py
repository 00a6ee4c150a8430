"""Replies that keep to a JSON schema or a regex: which tokens may come next, as a mask over the logits.

The grammars are llguidance's, from the extra ``constrain``. A matcher follows one reply on the host and writes the
tokens it allows into a row of bits; ``ConstraintRows`` carries all rows to the device at once. The end tokens are
allowed exactly where the grammar may end, and where nothing else can follow they are all that is allowed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from personalign.decode.slots import Slots
from personalign.errors import ConstraintError, MissingExtra, ModelError

if TYPE_CHECKING:
    from llguidance import LLMatcher

WORD = 32  # bits
EXAMPLE = '{"type": "object", "properties": {"city": {"type": "string"}}}'


class Constrainer:
    """Compiles schemas and regexes for the tokens of one model; made once, which takes up to a second."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_ids: int, ends: Sequence[int]) -> None:
        try:
            import llguidance.hf
        except ImportError as error:
            raise MissingExtra("llguidance", "constrain") from error
        if not ends:
            raise ModelError(
                "the model names no end token, and no reply could end where its schema or regex does; expected "
                "eos_token_id in its generation_config.json"
            )
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(
                f"no schema or regex can be used with a {type(tokenizer).__name__}; expected a fast tokenizer, "
                "one that has a tokenizer.json"
            )
        try:
            self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=num_ids, eos_token=list(ends))
        except ValueError as error:
            raise ModelError(
                f"no schema or regex can be used with this tokenizer ({_reason(str(error))}); expected byte-level BPE, "
                "or BPE with byte fallback"
            ) from error

    def compile(self, schema: Mapping[str, object] | str | None, regex: str | None) -> Matcher:
        """Make the matcher of one reply, from a JSON schema (a mapping or its text) or from a regex.

        JSON comes with the properties in the schema's order and spaces as ``json.dumps`` writes them. A regex has to
        match the whole reply; its syntax is that of Rust's, without look-around and back-references.
        """
        from llguidance import LLMatcher, LLParserLimits

        if schema is not None:
            name, grammar = "schema", _json_grammar(schema)
        else:
            assert regex is not None, "what isn't constrained has no matcher"
            name, grammar = "regex", LLMatcher.grammar_from_regex(regex)
        limits = LLParserLimits(verbose_errors=False)
        matcher = Matcher(LLMatcher(self._tokens, grammar, log_level=0, limits=limits))
        matcher.allowed(np.empty(num_words(self._tokens.vocab_size), dtype=np.int32))  # some dead ends show here only
        if matcher.error is not None:
            raise ConstraintError(
                f"the {name} can't be used: {matcher.error}; expected one that some text meets; correct or simplify it"
            )
        return matcher


class Matcher:
    """Where one reply stands in its grammar."""

    def __init__(self, grammar: LLMatcher) -> None:
        self._grammar = grammar

    @property
    def error(self) -> str | None:
        """Why no token may follow although the reply isn't complete; None where one may."""
        return _reason(self._grammar.get_error()) if self._grammar.is_error() else None

    def allowed(self, out: NDArray[np.int32]) -> None:
        """Write which tokens may come next into ``out``, lowest bit first: the ends alone once it is finished."""
        self._grammar.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)

    def fork(self) -> Matcher:
        """One that goes on from here by itself."""
        return Matcher(self._grammar.deep_copy())

    def advance(self, token: int) -> None:
        """Take the token that was drawn; one that isn't allowed is an error."""
        if not self._grammar.is_stopped():
            self._grammar.consume_token(token)


class ConstraintRows:
    """The matchers of every slot, and the bits that carry what they allow to the device, in one copy a step."""

    def __init__(self, slots: Slots, num_ids: int) -> None:
        shape, device = (slots.num_slots, num_words(num_ids)), slots.device
        self._matchers: dict[int, Matcher] = slots.values()
        # −1 has all its bits set: an unconstrained row allows every token
        self._bits = slots.keep(torch.full(shape, -1, dtype=torch.int32, pin_memory=device.type == "cuda"), -1)
        self._rows: NDArray[np.int32] = self._bits.numpy()
        self._on_device = torch.empty(shape, dtype=torch.int32, device=device)
        self._shifts = torch.arange(WORD, dtype=torch.int32, device=device)

    def admit(self, slot: int, matcher: Matcher) -> None:
        """Constrain the reply in a slot."""
        assert slot not in self._matchers, "a slot is released before it is admitted to"
        self._matchers[slot] = matcher

    def fork(self, slot: int) -> None:
        """Let a slot whose reply was copied from another one's follow its own from here on."""
        if slot in self._matchers:
            self._matchers[slot] = self._matchers[slot].fork()

    def mask(self, logits: Float[Tensor, "b V"]) -> Float[Tensor, "b V"]:
        """Set what may not come next to −∞; at a dead end, as ``dead`` says, only the end may."""
        b, size = logits.shape
        constrained = [slot for slot in self._matchers if slot < b]
        if not constrained:
            return logits
        for slot in constrained:
            self._matchers[slot].allowed(self._rows[slot])
        words = self._on_device[:b].copy_(self._bits[:b], non_blocking=True)
        is_allowed = ((words[:, :, None] >> self._shifts) & 1).bool().flatten(1)  # lowest bit first
        return logits.masked_fill(~is_allowed[:, :size], -math.inf)

    def advance(self, ids: NDArray[np.int64], slots: Iterable[int]) -> None:
        """Take the tokens (b,) that were drawn, in the slots whose reply goes on with them."""
        for slot in slots:
            if slot in self._matchers:
                self._matchers[slot].advance(int(ids[slot]))

    def dead(self, slot: int) -> ConstraintError | None:
        """The error of a reply that came to a dead end; None for all others."""
        error = None if slot not in self._matchers else self._matchers[slot].error
        if error is None:
            return None
        return ConstraintError(
            f"the reply came to a point where its schema or regex allows no token: {error}; expected one that can be "
            "followed to its end; correct or simplify it"
        )


def num_words(num_ids: int) -> int:
    """How many words hold a bit for every token."""
    return -(-num_ids // WORD)


def _json_grammar(schema: Mapping[str, object] | str) -> str:
    """The grammar of a schema's JSON, with spaces as json.dumps writes them: any more could be written for ever."""
    from llguidance import LLMatcher

    try:
        content = json.loads(schema) if isinstance(schema, str) else dict(schema)
        text = json.dumps(content, allow_nan=False)
        if not isinstance(content, dict):
            raise TypeError(f"it is {text:.80}")  # noqa: TRY301 - one way out
        return LLMatcher.grammar_from_json_schema(
            text, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
    except (TypeError, ValueError, RecursionError) as error:  # or a number beyond all floats
        raise ConstraintError(
            f"the schema isn't JSON that can be used ({error}); expected an object such as {EXAMPLE}"
        ) from error


def _reason(message: str) -> str:
    """What llguidance says is wrong, without the drawings around it."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "<non-verbose/>" not in line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no reason is given"])[0]
