"""The captured step: the same replies as the one that runs as it is, in one graph for each shape.

It runs in a process of its own, without the checks of shapes that tests put around every function: torch.compile
can't look through them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from personalign.decode import Decoder, Engine, Generated, Guidance, Request, load_causal
from personalign.types import Sampling
from tests.decode.tiny_models import make_kit, talk

W = Guidance(np.array([1.0, -2.0, 0.5]), 0.8)
REQUESTS = [
    Request(talk("hello")[0], Sampling(20), W),
    Request(talk("the cat")[0], Sampling(9, 1.0, seed=3), W, "hotels"),
    Request(talk("Q" * 30)[0], Sampling(30)),
]


def compare(family: str, backend: str, device: str) -> dict[str, object]:
    """What the two engines wrote, and how many graphs it took."""
    torch._dynamo.config.accumulated_recompile_limit = 1  # as when a server has come to torch's own limit, 256
    with tempfile.TemporaryDirectory() as folder:
        kit = make_kit(family, Path(folder))
        base = load_causal(kit.folder / "base", device)
        experts = kit.experts if device == "cpu" else {}
        decoder = kit.decoder(base=base, experts=experts)
        requests = [r for r in REQUESTS if r.expert is None or experts]
        plain = written(decoder, requests, None)
        uncaptured = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        captured = written(decoder, requests, backend)
    counters = torch._dynamo.utils.counters
    return {
        "same_ids": [r.ids for r in captured] == [r.ids for r in plain],
        "kl_gap": max(abs(a.kl - b.kl) for a, b in zip(captured, plain, strict=True)),
        "graphs": counters["stats"]["unique_graphs"],
        "graphs_without_backend": uncaptured,
        "breaks": len(counters["graph_break"]),
    }


def written(decoder: Decoder, requests: list[Request], backend: str | None) -> list[Generated]:
    outcomes: list[Generated | Exception] = [RuntimeError("no reply")] * len(requests)
    engine = Engine(decoder, len(requests), 128, len(requests), backend=backend)
    for i, request in enumerate(requests):
        engine.submit(decoder.reply(request, i, partial(outcomes.__setitem__, i)))
    while not engine.is_idle:
        engine.step()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def in_a_process_of_its_own(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_captured_step_writes_the_same(family: str) -> None:
    """Ids and account agree, without a break in any graph, and there are no more graphs than shapes."""
    found = in_a_process_of_its_own(family, "eager", "cpu")
    assert found["same_ids"]
    assert found["kl_gap"] < 1e-4
    assert found["breaks"] == 0
    assert 1 <= found["graphs"] <= 6  # at most 3 numbers of rows and 2 lengths
    assert found["graphs_without_backend"] == 0  # control: it is the backend that captures


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_on_a_gpu_writes_the_same() -> None:
    """With inductor on CUDA the step is replayed as a graph, and greedy replies are those of the eager engine."""
    assert in_a_process_of_its_own("llama", "inductor", "cuda")["same_ids"]


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))  # noqa: T201 - what the tests read
