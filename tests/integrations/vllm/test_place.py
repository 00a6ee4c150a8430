"""What starts vLLM for the people of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalign.bundled import TINY
from personalign.errors import BasisError, InputError
from personalign.integrations.vllm import PROCESSOR
from personalign.integrations.vllm.server import Place


def test_the_command_names_model_processor_and_address() -> None:
    """Further options follow, and the processes of vLLM find the store in their environment."""
    place = Place("tiny", "sqlite:///p.db", TINY / "basis")
    command = place.command("127.0.0.1", 8000, ["--dtype", "float32"])
    assert command[command.index("--model") + 1] == str(TINY / "base")
    assert command[command.index("--logits-processors") + 1] == PROCESSOR
    assert command[-2:] == ["--dtype", "float32"]
    assert place.variables["PERSONALIGN_STORE"] == "sqlite:///p.db"
    assert place.variables["PERSONALIGN_VLLM"] == "1"
    assert Path(place.variables["PERSONALIGN_BASIS"]).is_absolute()


@pytest.mark.parametrize("option", ["--logits-processors", "--logits_processors=a:B", "--model=other"])
def test_nothing_takes_the_place_of_our_processor(option: str) -> None:
    """Or everybody would get plain replies, and nobody be told."""
    with pytest.raises(InputError, match="personalign sets"):
        Place("tiny", "sqlite:///p.db").command("127.0.0.1", 8000, [option])


def test_a_model_without_a_basis_isnt_started() -> None:
    """Nothing could guide anybody."""
    with pytest.raises(BasisError, match="has no basis"):
        Place("owner/name", "sqlite:///p.db")
