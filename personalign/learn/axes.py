"""φ: replies on a basis's axes. The named ones are measured in the text, the learnt ones projected from embeddings.

There are two sets of named axes: ``dialogue.py`` for short replies about bookings, ``assistant.py`` for an assistant's
prose. A maker chooses one, and the basis stores its axes. A name stands for one measure, so no two sets share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from personalign.basis import Basis
from personalign.errors import BasisError, InputError
from personalign.learn.assistant import ASSISTANT
from personalign.learn.dialogue import DIALOGUE
from personalign.learn.prose import AxisSet
from personalign.messages import shown
from personalign.types import Array, Gaussian, Ints, Message
from personalign.words import Axis

# prompts and replies to embeddings (n, F)
Embed = Callable[[Sequence[Sequence[Message]], Sequence[str]], Array]
MIN_DEVIATION = 1e-3  # of an axis over the replies of a log or a model
MIN_SHARE = 0.01  # of replies that differ from the median on such an axis
SETS: Mapping[str, AxisSet[Any]] = MappingProxyType({"dialogue": DIALOGUE, "assistant": ASSISTANT})


def named_axes(name: str) -> tuple[Axis, ...]:
    """The axes of a set.

    Raises:
        InputError: no set has this name.
    """
    if name not in SETS:
        raise InputError(
            f"found the axes {name!r}, expected a set of named axes: {' or '.join(SETS)}; pass one of them"
        )
    return SETS[name].axes


def features(
    basis: Basis, prompts: Sequence[Sequence[Message]], replies: Sequence[str], embed: Embed | None = None
) -> Float[Array, "n d"]:
    """Measure replies to their prompts on all axes, standardised; one row each.

    Raises:
        BasisError: this version can't measure an axis, or the learnt axes lack embeddings of their width.
        InputError: the basis is one of known items, and a reply isn't one.
    """
    raw = measure_many(prompts, replies, basis.named)
    if basis.learnt is None:
        return basis.standardise(raw)
    projection = basis.learnt.projection
    if basis.learnt.items:
        return basis.standardise(np.hstack([raw, projection[_places(basis.learnt.items, replies)]]))
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


def flags(items: Sequence[str]) -> Embed:
    """What embeds known items: each is a dimension of its own."""
    return lambda _, replies: np.eye(len(items))[_places(items, replies)]


def _places(items: Sequence[str], replies: Sequence[str]) -> list[int]:
    places = {item: i for i, item in enumerate(items)}
    if unknown := [reply for reply in replies if reply not in places]:
        raise InputError(
            f"found the reply {shown(unknown[0])}, expected one of the {len(items)} items that the basis knows, to the "
            "letter; offer one of them, or fit a basis to a log with the new ones"
        )
    return [places[reply] for reply in replies]


def measure(prompt: Sequence[Message], reply: str, axes: Sequence[Axis]) -> Float[Array, "d"]:
    """Measure a reply on named axes, raw.

    Raises:
        BasisError: an axis has no measure of its name.
    """
    row: Array = measure_many([prompt], [reply], axes)[0]
    return row


def measure_many(
    prompts: Sequence[Sequence[Message]], replies: Sequence[str], axes: Sequence[Axis]
) -> Float[Array, "n d"]:
    """Measure replies to their prompts, one row each.

    Raises:
        BasisError: an axis has no measure of its name.
    """
    columns = _columns(axes)
    raw = np.zeros((len(replies), len(axes)))
    for row, prompt, reply in zip(raw, prompts, replies, strict=True):
        request = " ".join(m["content"] for m in prompt if m["role"] == "user")
        for axis_set, places in columns:
            row[places] = axis_set.measure(request, reply, [axes[j].name for j in places])
    return raw


def _columns(axes: Sequence[Axis]) -> list[tuple[AxisSet[Any], list[int]]]:
    """The sets that measure these axes, and where in a row their values belong."""
    if unknown := [axis.name for axis in axes if not any(axis.name in known.measures for known in SETS.values())]:
        names = ", ".join(name for known in SETS.values() for name in known.measures)
        raise BasisError(
            f"the basis names the axis {unknown[0]!r}, which this version can't measure; known are {names}; install "
            "the version that made the basis, or make it again"
        )
    columns = [
        (axis_set, [j for j, axis in enumerate(axes) if axis.name in axis_set.measures]) for axis_set in SETS.values()
    ]
    return [(axis_set, places) for axis_set, places in columns if places]


def varying_axes(raw: Float[Array, "R d"]) -> Int[Ints, "e"]:
    """The axes on which replies differ.

    Where fewer than one in a hundred has something, such as an emoji, this one would be ten and more standard
    deviations from all others, and nothing could be learnt of it.
    """
    share = (raw != np.median(raw, axis=0)).mean(axis=0)
    return np.flatnonzero((raw.std(axis=0) >= MIN_DEVIATION) & (share >= MIN_SHARE))


def restandardised(draft: Basis, axes: Int[Ints, "e"], center: Float[Array, "e"], scale: Float[Array, "e"]) -> Basis:
    """The draft on some of its axes, whose center and scale in the draft's units are now 0 and 1."""
    learnt = axes[axes >= len(draft.named)] - len(draft.named)
    projected = None
    if draft.learnt is not None and len(learnt):
        projected = replace(draft.learnt, projection=draft.learnt.projection[:, learnt])
    return replace(
        draft,
        axes=tuple(draft.axes[j] for j in axes),
        center=draft.center[axes] + draft.scale[axes] * center,
        scale=draft.scale[axes] * scale,
        prior=Gaussian(
            scale * draft.prior.mean[axes], draft.prior.covariance[np.ix_(axes, axes)] * np.outer(scale, scale)
        ),
        reference=draft.reference[:, axes],
        particles=None if draft.particles is None else scale * draft.particles[:, axes],
        learnt=projected,
    )
