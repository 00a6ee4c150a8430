"""The benchmark of the server: every figure comes out of a real one, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.browser import CHROMIUM
from lab.speed.serving import GROUPS, Plan, run_serve
from personalign.errors import InputError

SMALL = Plan(
    num_users=2,
    num_tokens=4,
    num_rounds=1,
    num_listeners=2,
    num_listened=2,
    in_flight=1,
    overload=4,
    overload_s=2.0,
    soak_s=4.0,
    kill_every_s=2.0,
)


@pytest.mark.slow
def test_every_figure_is_measured(tmp_path: Path) -> None:
    """A load that the server can take has no errors, and one that it can't is refused; the file holds it all."""
    figures = {}
    for only in ("tokens_over_engine.32.tiny", "ttft", "refusal", "page", "soak"):
        figures |= run_serve(SMALL, "cpu", only, tmp_path / "serve.json")["figures"]
    names = {name for group in GROUPS for name in group.figures} - {"tokens_over_engine.32.smollm2"}
    small = {name.replace(".32.", ".2.").replace("unloaded.8", "unloaded.2") for name in names}
    assert figures.keys() == small - (set() if CHROMIUM.exists() else {"page.onboarding_s"})
    assert figures["refusal_other_statuses"] == figures["soak.errors"] == 0
    assert (tmp_path / "serve.json").exists()


def test_an_unknown_figure_is_refused() -> None:
    """Before a server is started."""
    with pytest.raises(InputError, match="no figure begins with 'speed'"):
        run_serve(SMALL, "cpu", "speed")
