"""φ: replies on a basis's axes, the named ones measured in the text, the learnt ones projected from embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.basis import Basis
from personalign.errors import BasisError
from personalign.learn.axes import measure_many
from personalign.types import Array, Message

# prompts and replies to embeddings (n, F)
Embed = Callable[[Sequence[Sequence[Message]], Sequence[str]], Array]


def features(
    basis: Basis, prompts: Sequence[Sequence[Message]], replies: Sequence[str], embed: Embed | None = None
) -> Float[NDArray[np.float64], "n d"]:
    """Measure replies to their prompts on all axes, standardised; one row each.

    Raises:
        BasisError: an axis can't be measured by this version, or there are learnt axes and nothing embeds, or what
            embeds has another width.
    """
    raw = measure_many(prompts, replies, basis.named)
    if basis.learnt is None:
        return basis.standardise(raw)
    projection = basis.learnt.projection
    if embed is None:
        raise BasisError(
            f"the basis has {projection.shape[1]} learnt axes, which are measured in embeddings; pass what embeds"
        )
    embedded = embed(prompts, replies)
    if embedded.shape[1] != len(projection):
        raise BasisError(
            f"the embeddings have {embedded.shape[1]} dimensions, the basis projects {len(projection)}; embed "
            f"with what the basis was made with ({basis.learnt.embedder})"
        )
    return basis.standardise(np.hstack([raw, embedded @ projection]))
