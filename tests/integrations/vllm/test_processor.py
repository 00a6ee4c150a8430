"""Our processor called as vLLM calls it, by both of its interfaces, with vLLM's own values and no engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from personalign import Personalign
from personalign.errors import InputError

pytest.importorskip("vllm", reason="vLLM isn't installed: make test-vllm")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from personalign.integrations.vllm.passage import passage, read_subject
from personalign.integrations.vllm.people import USER
from personalign.integrations.vllm.processor import Personal

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

CPU = torch.device("cpu")
NUM = 4
CONFIG = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=NUM), speculative_config=None)


def params(user: str | None) -> SamplingParams:
    return SamplingParams(extra_args=None if user is None else {USER: user})


@pytest.fixture
def make(p: Personalign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Personal]:
    """Make a processor of two people, as a process with the bundled model would."""
    p.set("ada", length=-1)
    p.set("ben", length=1)
    monkeypatch.setenv("PERSONALIGN_STORE", f"sqlite:///{tmp_path / 'p.db'}")
    monkeypatch.setenv("PERSONALIGN_VLLM", "1")
    monkeypatch.setattr(passage(), "subject", read_subject(p.basis, p.source.model, p.models.base.output_embedding))
    return lambda place, config=CONFIG: Personal(config, place)


def drawn(num: int = NUM) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(num, 4096, generator=generator), torch.randn(num, 256, generator=generator)


def states() -> LogitsProcRequestState:
    """V2's buffers, of which the processor reads lengths of prompts."""
    lengths: Any = SimpleNamespace(np=np.full(NUM, 5, dtype=np.int32))
    return LogitsProcRequestState(CPU, NUM, 4096, lengths, lengths, lengths, lengths)


def context(slots: list[int], length: int) -> LogitsContext:
    mapping, lengths = torch.tensor(slots), np.full(len(slots), length, dtype=np.int32)
    return LogitsContext(mapping, mapping, np.array(slots), mapping * 0, mapping, mapping, lengths)


def test_both_interfaces_steer_the_same_rows_alike(make: Callable[..., Personal]) -> None:
    """V1's places after a move, and V2's slots in another order."""
    older, newer = make(CPU), make(states())
    older.update_state(BatchUpdate(3, [], [(0, params("ben"), [1], [7]), (2, params("ada"), [1], [7])], []))
    older.update_state(BatchUpdate(3, [], [], [(0, 1, MoveDirectionality.SWAP)]))
    assert newer.add_request(3, params("ben"))
    assert newer.add_request(0, params("ada"))
    assert not newer.add_request(1, params(None))
    logits, hidden = drawn(3)
    passage().put(hidden)
    first = older.apply(logits.clone())
    passage().put(hidden)
    second = newer.apply(logits.clone(), context([1, 3, 0], length=6))
    assert torch.equal(first, second)
    assert torch.equal(first[0], logits[0])
    assert not torch.equal(first[1], logits[1])


def test_v2_knows_the_first_token_by_the_length(make: Callable[..., Personal]) -> None:
    """The end is ruled out there, and may come later."""
    newer = make(states())
    newer.add_request(0, params("ada"))
    logits, hidden = drawn(1)
    logits[0, 2] = logits.max() - 0.01
    outcomes = []
    for length in (5, 6):
        passage().put(hidden)
        outcomes.append(newer.apply(logits.clone(), context([0], length))[0, 2].isfinite().item())
    assert outcomes == [False, True]


def test_a_batch_without_people_is_left_alone(make: Callable[..., Personal]) -> None:
    """The very tensor comes back, whoever was there before."""
    older = make(CPU)
    older.update_state(BatchUpdate(1, [], [(0, params("ada"), [1], [])], []))
    older.update_state(BatchUpdate(1, [0], [(0, params(None), [1], [])], []))
    logits, _ = drawn(1)
    assert older.apply(logits) is logits
    assert not older.is_argmax_invariant()


def test_what_would_steer_nobody_is_refused_at_the_start(
    make: Callable[..., Personal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speculative drafts, and model classes that hand over nothing."""
    with pytest.raises(InputError, match="speculative"):
        make(CPU, SimpleNamespace(scheduler_config=CONFIG.scheduler_config, speculative_config=object()))
    monkeypatch.delenv("PERSONALIGN_VLLM")
    with pytest.raises(InputError, match="PERSONALIGN_VLLM=1"):
        make(CPU)


def test_a_store_that_cant_be_read_ends_no_engine(make: Callable[..., Personal], monkeypatch: Any) -> None:
    """A request that was let in before gets a plain reply, and the log says so; others go on."""
    from personalign.errors import StoreError

    older = make(CPU)

    def fail(_: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(older.people, "guidance", fail)
    older.update_state(BatchUpdate(1, [], [(0, params("ada"), [1], [])], []))
    assert older.batch.is_plain
