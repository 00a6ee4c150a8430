"""What the model's class hands to the processor within one process of vLLM: what it is, and each step's hidden states.

vLLM makes both, each from its own class, and tells neither of the other.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from personalign.basis import Basis
from personalign.decode.load import load_outline
from personalign.decode.slots import Slots
from personalign.decode.successor import SuccessorHead
from personalign.decode.tilt import SuccessorTilt
from personalign.errors import BasisError, EngineError, ModelError


class Subject(NamedTuple):
    """The loaded model as a tilt needs it."""

    table: Float[Tensor, "V R"]
    ends: tuple[int, ...]
    head: SuccessorHead


class Passage:
    """Filled by the model's class, emptied by the processor, on the thread that steps the engine."""

    def __init__(self) -> None:
        self.subject: Subject | None = None  # once the weights are loaded
        self._hidden: Tensor | None = None  # of the last pass through the output layer, (B, H)

    def put(self, hidden: Float[Tensor, "B H"]) -> None:
        """Keep the hidden states whose logits are computed now."""
        self._hidden = hidden

    def take(self, num_rows: int) -> Float[Tensor, "B H"]:
        """Give the hidden states of the logits at hand, row by row."""
        hidden, self._hidden = self._hidden, None
        if hidden is None or len(hidden) != num_rows:
            num = None if hidden is None else len(hidden)
            raise EngineError(
                f"vLLM computed {num_rows} rows of logits, and the model's class saw {num}; run: personalign vllm check"
            )
        return hidden

    def tilt(self, basis: Basis, slots: Slots, num_rows: int) -> SuccessorTilt:
        """A tilt of the loaded model's rows."""
        if self.subject is None:
            raise EngineError(
                "the model's weights weren't seen while they were loaded; expected PERSONALIGN_VLLM=1 where vLLM "
                "starts, and no dummy weights; start it with: personalign vllm serve"
            )
        table, ends, head = self.subject
        return SuccessorTilt(head, table, basis.steering, ends, slots, num_rows, has_account=False)


@cache
def passage() -> Passage:
    """The one of this process."""
    return Passage()


@torch.no_grad()
def read_subject(basis: Basis, name: str, embedding: Float[Tensor, "V H"]) -> Subject:
    """Check that a basis was made for the model that vLLM has loaded, and learn what its head knows of the tokens.

    Raises:
        BasisError: it was made for another model, or has no head.
        ModelError: the output embedding isn't whole.
    """
    outline = load_outline(name)
    num_logits, num_rows = outline.num_logits, len(embedding)
    if num_rows < num_logits:
        raise ModelError(
            f"the output layer of {name} has {num_rows} of {num_logits} rows in this process; expected all of them; "
            "start vLLM without tensor parallelism"
        )
    embedding = embedding[:num_logits]  # vLLM pads it
    causal = load_outline(name, embedding)
    basis.check_model(causal.fingerprints)
    if basis.head is None:
        raise BasisError("steering needs a successor head, and the basis has none; train one for this model")
    head = SuccessorHead.from_arrays(basis.head).to(embedding.device)
    return Subject(head.table(embedding), causal.ends, head)
