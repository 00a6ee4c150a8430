"""What has to hold of vLLM's source, and how it is told what moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from personalign.errors import MissingExtra
from personalign.integrations.vllm.contracts import CONTRACTS, Contract, broken, fault, installed

SOURCE = """
class Sampler:
    first: int
    second: int = 0

    def apply(self, logits, ctx):
        self.penalties(logits)
        return ctx.steer(logits)
"""


@pytest.mark.parametrize(
    ("place", "kind", "names", "message"),
    [
        ("Sampler.apply", "takes", ("logits", "ctx"), None),
        ("Sampler.apply", "takes", ("logits",), "takes logits, ctx; expected logits"),
        ("Sampler", "has", ("second",), None),
        ("Sampler", "has", ("third",), "has first, second; expected third"),
        ("Sampler.apply", "does", ("penalties", "steer"), None),
        ("Sampler.apply", "does", ("steer", "penalties"), "does penalties, steer; expected steer, penalties"),
        ("Sampler.run", "does", ("steer",), "isn't there"),
    ],
)
def test_a_contract_is_read_in_the_source(
    tmp_path: Path, place: str, kind: str, names: tuple[str, ...], message: str | None
) -> None:
    """What a function takes, what a class has, and what comes first."""
    (tmp_path / "sampler.py").write_text(SOURCE)
    found = fault(Contract("it steers", "sampler.py", place, kind, names), tmp_path)
    assert found is None if message is None else message in str(found)


def test_a_folder_without_vllm_breaks_every_contract(tmp_path: Path) -> None:
    """Each is named."""
    assert len(broken(tmp_path)) == len(CONTRACTS)
    assert all("isn't there" in line for line in broken(tmp_path))


def test_without_vllm_the_command_that_brings_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every extra."""
    monkeypatch.setattr("personalign.integrations.vllm.contracts.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'personalign\[vllm\]'"):
        installed()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """The installed vLLM's files that matter, one of them changed."""
    pytest.importorskip("vllm", reason="vLLM isn't installed: make test-vllm")

    def change(file: str, before: str, after: str) -> Path:
        for name in {contract.file for contract in CONTRACTS}:
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(installed() / name, target)
        text = (tmp_path / file).read_text()
        assert before in text
        (tmp_path / file).write_text(text.replace(before, after))
        return tmp_path

    return change


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("file", "before", "after", "contract"),
    [
        ("sampling_params.py", "extra_args:", "other_args:", "requests carry arguments"),
        ("v1/sample/logits_processor/interface.py", "removed:", "gone:", "V1 says who went"),
        ("v1/worker/gpu/sample/logits_processor/interface.py", "idx_mapping_np:", "slots:", "V2 says whose rows"),
        ("v1/sample/sampler.py", "def apply_logits_processors", "def process", "V1 penalises after"),
        ("plugins/__init__.py", "vllm.general_plugins", "vllm.plugins", "plug-ins are loaded"),
    ],
)
def test_a_contract_that_moved_is_named(
    copied: Callable[[str, str, str], Path], file: str, before: str, after: str, contract: str
) -> None:
    """It alone; the vLLM as it is installed keeps all of them (the control)."""
    assert broken(installed()) == []
    (line,) = broken(copied(file, before, after))
    assert line.startswith(contract)
