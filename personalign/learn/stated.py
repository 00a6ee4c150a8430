"""What a person states about an axis, as evidence on its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from personalign.types import SPREADS, Gaussian, Statement
from personalign.words import Axis

FULL = 2.0  # standard deviations of the prior that position 1 stands for: those of its strongest twentieth


def conditioned(prior: Gaussian, statements: Sequence[Statement], axes: Sequence[Axis]) -> Gaussian:
    """Condition a prior on what was stated; without a statement on these axes return ``prior`` itself.

    A statement is a pseudo-observation of one weight, w_j = m ± s, in standard deviations of the prior on that axis.
    For a normal prior this is exact.
    """
    places = {axis.name: j for j, axis in enumerate(axes)}
    usable = [statement for statement in statements if statement.axis in places]
    if not usable:
        return prior
    index = [places[statement.axis] for statement in usable]
    unit = np.sqrt(np.diag(prior.covariance))[index]
    target = unit * FULL * [statement.position for statement in usable]
    spread = unit * [SPREADS[statement.kind] for statement in usable]
    shared = prior.covariance[index]
    gain = np.linalg.solve(shared[:, index] + np.diag(spread**2), shared).T
    covariance = prior.covariance - gain @ shared
    return Gaussian(prior.mean + gain @ (target - prior.mean[index]), (covariance + covariance.T) / 2)
