"""What the model's class hands to the processor, and the basis that has to be of that model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from personalign import Basis
from personalign.bundled import TINY
from personalign.decode import load_causal
from personalign.decode.load import load_outline
from personalign.decode.slots import Slots
from personalign.errors import BasisError, EngineError, ModelError
from personalign.integrations.vllm.passage import Passage, read_subject

if TYPE_CHECKING:
    from personalign.decode import CausalModel

BASE = str(TINY / "base")


@pytest.fixture(scope="module")
def causal() -> CausalModel:
    return load_causal(BASE)


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.load(TINY / "basis")


def test_an_outline_is_known_by_the_same_fingerprints(causal: CausalModel) -> None:
    """In any precision, padded or not, and without a weight of its own."""
    outline = load_outline(BASE, causal.output_embedding.bfloat16())
    assert outline.fingerprints == causal.fingerprints
    assert outline.ends == causal.ends
    assert all(value.is_meta for value in outline.model.parameters())


def test_the_table_of_tokens_is_our_engines(causal: CausalModel, basis: Basis) -> None:
    """Of an embedding that vLLM has padded, too."""
    padding = torch.zeros(64, causal.hidden_size)
    subject = read_subject(basis, BASE, torch.cat([causal.output_embedding, padding]))
    assert torch.equal(subject.table, subject.head.table(causal.output_embedding))
    assert subject.ends == causal.ends


def test_another_models_basis_is_refused(causal: CausalModel, basis: Basis) -> None:
    """So is one without a head, and an output layer that is split over several devices."""
    with pytest.raises(BasisError, match="was made for"):
        read_subject(basis, BASE, causal.output_embedding + 1)
    with pytest.raises(BasisError, match="no"):
        read_subject(replace(basis, head=None), BASE, causal.output_embedding)
    with pytest.raises(ModelError, match="2048 of 4096 rows"):
        read_subject(basis, BASE, causal.output_embedding[:2048])


def test_hidden_states_are_taken_once_and_row_by_row() -> None:
    """Another number of rows than of logits means that vLLM has changed."""
    passage = Passage()
    passage.put(torch.ones(3, 4))
    assert len(passage.take(3)) == 3
    with pytest.raises(EngineError, match="vllm check"):
        passage.take(3)
    passage.put(torch.ones(2, 4))
    with pytest.raises(EngineError, match="the model's class saw 2"):
        passage.take(3)


def test_weights_that_nobody_saw_are_told(basis: Basis) -> None:
    """As with dummy weights, or vLLM started by hand without the variable."""
    with pytest.raises(EngineError, match="PERSONALIGN_VLLM=1"):
        Passage().tilt(basis, Slots(1, torch.device("cpu")), 1)
