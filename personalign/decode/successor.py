"""The successor head: one set of features serves everyone's reward, at no extra forward pass of the model.

Because a reward is linear in the features of the finished reply, their expectation given the prefix and the next
token becomes a person's value of that token by one inner product. Read ``tilt.py`` next: how it steers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from personalign.errors import BasisError


class SuccessorHead(nn.Module):
    """ψ_j(h, v) = U_j(h) · (P e_v) + c_j(h): the expected features of the reply once v has been written.

    h is the base model's last hidden state (the input of its output layer), e_v its output embedding of v;
    U and c come from a two-layer perceptron, P projects H dimensions to R.
    """

    def __init__(self, H: int, d: int, R: int, hidden: int = 256) -> None:
        super().__init__()
        self.num_axes, self.rank, self.hidden_size = d, R, H
        self.body = nn.Linear(H, hidden)
        self.direction = nn.Linear(hidden, d * R)
        self.constant = nn.Linear(hidden, d)
        self.projection = nn.Linear(H, R, bias=False)

    def table(self, embeddings: Float[Tensor, "V H"]) -> Float[Tensor, "V R"]:
        """P e_v / √R of every token; compute it once per model."""
        projected: Tensor = self.projection(embeddings.float())
        return projected / math.sqrt(self.rank)

    def merged(self, weights: Float[Tensor, "B d"]) -> Float[Tensor, "B R h1"]:
        """Σ w_j U_j of each row's person: a matrix over the inner activations, whose last column is what is added.

        All that a person's reward needs of the head, d times smaller: made once a reply, not once a token.
        """
        layer = self.direction
        matrix = torch.cat([layer.weight, layer.bias[:, None]], dim=-1).view(self.num_axes, self.rank, -1)
        return (weights[:, :, None, None] * matrix).sum(1)

    def inner(self, hidden: Float[Tensor, "B H"]) -> Float[Tensor, "B h"]:
        """What the last layers read of the model's hidden state."""
        activated: Tensor = nn.functional.gelu(self.body(hidden.float()))
        return activated

    def forward(self, hidden: Float[Tensor, "N H"], tokens: Float[Tensor, "N H"]) -> Float[Tensor, "N d"]:
        """ψ of N pairs of a hidden state and a next token, the token given as its row of the output embedding."""
        inner = self.inner(hidden)
        constant: Tensor = self.constant(inner)
        return self.by_token(inner, tokens) + constant

    def by_token(self, inner: Float[Tensor, "N h"], tokens: Float[Tensor, "N H"]) -> Float[Tensor, "N d"]:
        """U_j(h) · (P e_v): the part of ψ that a choice among tokens goes by."""
        flat: Tensor = self.direction(inner)  # U times √R: the table has the other factor
        directions = flat.view(-1, self.num_axes, self.rank)
        return (directions * self.table(tokens)[:, None, :]).sum(-1)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The weights by name, for a basis."""
        return {name: value.detach().float().cpu().numpy().copy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SuccessorHead:
        """Build a head from a basis's arrays (float32 or float16), which also give its sizes.

        Raises:
            BasisError: a name, a shape or a type is wrong, or a value isn't finite.
        """
        with torch.device("meta"):  # sizes may say anything until they agree
            head = cls._blank(arrays)
        expected = head.state_dict()
        if set(arrays) != set(expected):
            raise BasisError(f"the head has the arrays {sorted(arrays)}, expected {sorted(expected)}; train it again")
        for name, array in arrays.items():
            shape = tuple(expected[name].shape)
            if array.shape != shape or array.dtype not in (np.float32, np.float16):
                raise BasisError(
                    f"the head's {name} is {array.dtype} {array.shape}, expected float32 {shape}; train it again"
                )
            if not np.isfinite(array).all():
                raise BasisError(f"the head's {name} holds NaN or Inf, expected finite numbers; train it again")
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        head.load_state_dict(weights, assign=True)
        return head.eval().requires_grad_(requires_grad=False)

    @classmethod
    def _blank(cls, arrays: Mapping[str, NDArray[Any]]) -> SuccessorHead:
        try:
            hidden, H = arrays["body.weight"].shape
            d, R = len(arrays["constant.bias"]), len(arrays["projection.weight"])
            if not min(H, d, R, hidden):
                raise ValueError("one of its sizes is 0")  # noqa: TRY301 - reported as the others are
            return cls(H, d, R, hidden)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BasisError(
                f"the head's arrays can't be read ({error}); expected those of to_arrays(); train it again"
            ) from error


def reward(
    head: SuccessorHead,
    table: Float[Tensor, "V R"],
    hidden: Float[Tensor, "B H"],
    merged: Float[Tensor, "B R h1"],
    candidates: Int[Tensor, "B K"],
) -> Float[Tensor, "B K"]:
    """Q(v) − Σ w c(h) = Σ w U(h)·(P e_v) of each row's candidates under the row's own weights, merged with the head.

    c adds the same to all candidates, and steering centres rewards, so it isn't computed. Multiply-and-sum is used
    because einsum and bmm change bits with the batch size.
    """
    personal = (merged[..., :-1] * head.inner(hidden)[:, None, :]).sum(-1) + merged[..., -1]
    return (personal[:, None, :] * table[candidates]).sum(-1)
