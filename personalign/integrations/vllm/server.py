"""Starting vLLM for people: its OpenAI server in a process of its own, or its engine in this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from personalign.bundled import locate, model_place, no_basis
from personalign.decode.gguf import checkpoint_folder
from personalign.errors import BasisError, EngineError, InputError
from personalign.integrations.vllm import PROCESSOR
from personalign.settings import PREFIX, environment, set_environment

SERVER = "vllm.entrypoints.openai.api_server"  # as a module: the command vllm fails on CPUs
MODEL, PROCESSORS = "--model", "--logits-processors"
QUIET = {"VLLM_LOGGING_STREAM": "ext://sys.stderr"}  # its log stays out of what we print
LOOPBACK = "127.0.0.1"
START_S, PAUSE_S, LAST_S = 600.0, 0.2, 10.0  # until it answers; between two looks; until it has ended
# the shell's input ends with the process that started it
TETHER = 'exec 3<&0; "$@" </dev/null 3<&- & child=$!; { read _ <&3; kill "$child"; } 2>/dev/null & wait "$child"'
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass(frozen=True)
class Place:
    """Which model vLLM loads, and whose store and basis steer it.

    Raises:
        BasisError: there is no basis for the model.
    """

    model: str
    store: str
    basis: Path | None = None

    def __post_init__(self) -> None:
        if locate(self.model, self.basis).basis is None:
            raise BasisError(no_basis(self.model))

    @property
    def variables(self) -> dict[str, str]:
        """What the processes of vLLM read in their environment."""
        named = {"VLLM": "1", "MODEL": self.model, "STORE": self.store}
        if self.basis is not None:
            named["BASIS"] = str(self.basis.absolute())
        return {f"{PREFIX}{name}": value for name, value in named.items()} | QUIET

    def checkpoint(self) -> str:
        """The folder or hub id that vLLM loads; a GGUF file is converted on first use."""
        return checkpoint_folder(model_place(self.model))

    def command(self, host: str, port: int, arguments: Sequence[str] = ()) -> list[str]:
        """What starts vLLM's OpenAI server; later arguments win.

        Raises:
            InputError: another processor or model would take the place of ours.
        """
        for word in arguments:
            if word.partition("=")[0].replace("_", "-") in {PROCESSORS, MODEL}:
                raise InputError(f"found {word} among vLLM's options, which personalign sets; leave it out")
        named = {
            MODEL: self.checkpoint(),
            "--served-model-name": self.model,
            PROCESSORS: PROCESSOR,
            "--host": host,
            "--port": str(port),
        }
        return [sys.executable, "-m", SERVER, *(word for pair in named.items() for word in pair), *arguments]


@contextmanager
def running(place: Place, arguments: Sequence[str] = ()) -> Iterator[str]:
    """VLLM's server in a process of its own, ended afterwards: its address, once it answers.

    Raises:
        EngineError: it ends, or doesn't answer in time; its log on stderr says why.
    """
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    with tethered(place.command(LOOPBACK, port, arguments), environment(place.variables)) as process:
        _wait(f"http://{LOOPBACK}:{port}", process)
        yield f"http://{LOOPBACK}:{port}"


@contextmanager
def tethered(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this one, however this one ends; a signal for us isn't one for it.

    Its exit status is the command's.
    """
    process = subprocess.Popen(  # noqa: S603 - our own command line
        ["/bin/sh", "-c", TETHER, "personalign", *command],
        env=dict(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # replies under way go on
    )
    try:
        yield process
    finally:
        assert process.stdin is not None, "it is a pipe"
        process.stdin.close()
        try:
            process.wait(LAST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.wait()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{address}/health", timeout=1):  # noqa: S310 - it is http on the loopback
                return
        except OSError:
            time.sleep(PAUSE_S)
    end = "did not answer in time" if process.poll() is None else "ended before it answered"
    raise EngineError(f"vLLM {end}; its log above says why; try it alone with: personalign vllm serve")


class Offline:
    """vLLM's engine in this process, with our processor: one for each process, since vLLM frees nothing."""

    def __init__(self, place: Place, **arguments: Any) -> None:  # noqa: ANN401 - of vLLM's own LLM
        set_environment(place.variables | IN_PROCESS)
        from vllm import LLM

        self.llm = LLM(place.checkpoint(), logits_processors=[PROCESSOR], **arguments)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        people: Sequence[Mapping[str, Any] | None],
        **sampling: Any,  # noqa: ANN401 - of vLLM's own SamplingParams
    ) -> list[list[int]]:
        """Tokens of greedy replies, ends included, each under the extra arguments in the same place."""
        from vllm import SamplingParams

        params = [SamplingParams(extra_args=dict(one or {}), **{"temperature": 0.0} | sampling) for one in people]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [list(one.outputs[0].token_ids) for one in self.llm.generate(asked, params, use_tqdm=False)]

    def refuses(self, prompt: Sequence[int], person: Mapping[str, Any]) -> bool:
        """Whether a request under these extra arguments is turned away, which is a 400 over HTTP."""
        from vllm.exceptions import VLLMValidationError

        try:
            self.write([prompt], [person], max_tokens=1)
        except VLLMValidationError:
            return True
        return False
