"""A head that is told what was already written, against one that isn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.quality.heads import Plan, rows
from lab.quality.steering import Plan as Places
from personalign.basis import Basis
from personalign.bundled import ZOO
from personalign.decode import Models, load_causal
from personalign.train.plans import UNCALIBRATED
from personalign.train.prompts import split_prompts


@pytest.mark.slow
def test_what_is_still_to_come_teaches_more(tmp_path: Path) -> None:
    """From the same few replies of the toy it knows better where tokens lead; the same plan gives the same figures."""
    lines = (ZOO / "tiny" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = split_prompts([tuple(json.loads(line)) for line in lines], seed=0)
    basis = Basis.load(ZOO / "tiny" / "basis")
    models = Models(load_causal(ZOO / "tiny" / "base", "cpu"), None, UNCALIBRATED)
    places = Places(num_places=16, num_tokens=4, num_continuations=8, max_tokens=24, latest=8)
    plan = Plan(num_prompts=60, replies_per_prompt=3, tokens_seen=150_000, steering=places)
    figures = [{row.figure: row.value for row in rows(models, basis, prompts, tmp_path, plan)} for _ in range(2)]
    assert figures[0]["heads.to_come"] > figures[0]["heads.whole"] + 0.03
    assert figures[0] == figures[1]
