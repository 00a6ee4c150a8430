"""A model at work: a forward pass that also gives the hidden state, and a lane, which keeps a row for every reply.

A lane's rows are slots: replies begin and end in them at any step, whatever the others do. A step reads one token a
row, over the first few slots only; a prompt is read in chunks, by itself, so its bits never depend on neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from personalign.decode.cache import Attention, SlotCache, Window
from personalign.decode.load import CausalModel

CHUNK = 512  # tokens of a prompt that are read at once
LENGTH_STEP = 64  # what is read back grows by so many positions


def forward(
    causal: CausalModel,
    ids: Int[Tensor, "B T"],
    runner: nn.Module | None = None,
    **arguments: object,
) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B H"]]:
    """Run the model once; give the logits (float32) and the hidden states at the last position.

    ``runner`` is what is called instead of the model itself, such as a PeftModel around it. The hidden state is taken
    from the output layer's input, because some models scale or cap their logits after that layer.
    """
    seen: list[Tensor] = []
    if causal.can_keep_logits:
        arguments["logits_to_keep"] = 1
    with causal.lock:
        hook = causal.output_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            output = (causal.model if runner is None else runner)(input_ids=ids, **arguments)
        finally:
            hook.remove()
    return output.logits[:, -1].float(), seen[-1][:, -1]


class Slots:
    """How much each slot has read, and the cache of what a model made of it.

    ``copies`` is how many rows a slot has, and ``ahead`` how many positions a step writes beyond what is read.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        device: torch.device,
        num_slots: int,
        max_length: int,
        copies: int = 1,
        ahead: int = 1,
    ) -> None:
        self.device, self.copies, self._ahead = device, copies, ahead
        self.attention = Attention.of(config)
        self.max_length = -(-max_length // LENGTH_STEP) * LENGTH_STEP
        self.cache = SlotCache(config, num_slots * copies, self.max_length)
        self.lengths = torch.zeros(num_slots, dtype=torch.long, device=device)
        self.known = [0] * num_slots  # the lengths, on the host

    def window(self, start: int, stop: int, written: Int[Tensor, "r T"], length: int) -> Window:
        """The rows of some slots, to write new tokens at these positions and read ``length`` of them."""
        rows = slice(start * self.copies, stop * self.copies)
        return Window(rows, torch.arange(len(written), device=self.device)[:, None], written, length)

    def seen(self, positions: Int[Tensor, "r T"], length: int) -> Bool[Tensor, "r T L"]:
        """What a token at each position may see: all up to itself."""
        return torch.arange(length, device=self.device) <= positions[:, :, None]

    def span(self, stop: int) -> int:
        """How far back a step over the first ``stop`` slots has to read."""
        return self.round_up(max(self.known[:stop]) + self._ahead)

    def round_up(self, length: int) -> int:
        """The next of the few lengths that are read."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.max_length)

    def grow(self, slot: int, count: int) -> None:
        """Note that a slot has read more."""
        self.known[slot] += count
        self.lengths[slot] = self.known[slot]

    def advance(self, active: Bool[Tensor, "b"], running: Sequence[int]) -> None:
        """Note that the active slots, which ``running`` names for the host, have read one more."""
        self.lengths[: len(active)] += active
        for slot in running:
            self.known[slot] += 1

    def release(self, slot: int) -> None:
        """Empty a slot. What it held may not be finite: the next reply masks it, but a weight of 0 times NaN is NaN."""
        self.cache.wipe(slice(slot * self.copies, (slot + 1) * self.copies), self.known[slot] + self._ahead)
        self.lengths[slot] = 0
        self.known[slot] = 0

    def move(self, source: int, target: int) -> None:
        """Carry a slot's content over to an empty one."""
        rows, target_rows = (slice(slot * self.copies, (slot + 1) * self.copies) for slot in (source, target))
        self.cache.copy(rows, target_rows, self.known[source])
        self.lengths[target] = self.lengths[source]
        self.known[target] = self.known[source]
        self.release(source)


class Unread:
    """What is left of the prompts of the slots, in chunks."""

    def __init__(self) -> None:
        self._tokens: dict[int, list[int]] = {}

    def put(self, slot: int, tokens: Sequence[int]) -> None:
        """Give a slot its prompt."""
        self._tokens[slot] = list(tokens)

    def take(self, slot: int) -> list[int]:
        """The slot's next chunk; empty when all is read."""
        tokens = self._tokens.pop(slot, [])
        if len(tokens) > CHUNK:
            self._tokens[slot] = tokens[CHUNK:]
        return tokens[:CHUNK]

    def drop(self, slot: int) -> None:
        """Forget a slot's prompt."""
        self._tokens.pop(slot, None)

    def move(self, source: int, target: int) -> None:
        """Carry a prompt over to an empty slot."""
        if source in self._tokens:
            self._tokens[target] = self._tokens.pop(source)


class Lane:
    """A model and its slots. With adapters, a slot has one row for each of them, all reading the same tokens."""

    def __init__(
        self,
        causal: CausalModel,
        num_slots: int,
        max_length: int,
        runner: nn.Module | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        self._causal, self._runner, self._adapters = causal, runner, list(adapters)
        config = causal.model.config
        self._slots = Slots(config, causal.device, num_slots, max_length, copies=len(adapters) or 1)
        self._tokens = torch.zeros(num_slots, dtype=torch.long, device=causal.device)  # to be read next
        self._unread = Unread()

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give an empty slot its prompt, whose last token the first step reads."""
        *before, last = prompt
        self._tokens[slot] = last
        self._unread.put(slot, before)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        if chunk := self._unread.take(slot):
            slots, start = self._slots, self._slots.known[slot]
            stop = start + len(chunk)
            ids = torch.tensor([chunk], device=slots.device).expand(slots.copies, -1)
            positions = torch.arange(start, stop, device=slots.device).expand(slots.copies, -1)
            slots.grow(slot, len(chunk))  # first: if reading fails half way, so much has to be wiped
            self._forward(ids, positions, slots.window(slot, slot + 1, positions, slots.round_up(stop)))
        return len(chunk)

    def step(
        self, active: Bool[Tensor, "b"], running: Sequence[int]
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        """Read one token in each of the first b slots; give what follows, a slot's copies one after the other.

        Slots that aren't active are computed and forgotten. ``running`` names the active ones for the host.
        """
        slots, b = self._slots, len(active)
        positions = slots.lengths[:b].repeat_interleave(slots.copies)[:, None]
        ids = self._tokens[:b].repeat_interleave(slots.copies)[:, None]
        window = slots.window(0, b, positions, slots.span(b))
        follows = self._forward(ids, positions, window)
        slots.advance(active, running)
        return follows

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Take the drawn tokens as what the next step reads; a slot whose prompt is being read keeps its last token."""
        waits = self._tokens[: len(tokens)]
        waits.copy_(torch.where(active, tokens, waits))

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self._unread.drop(slot)
        self._slots.release(slot)

    def move(self, source: int, target: int) -> None:
        """Carry a slot's content over to an empty one."""
        self._tokens[target] = self._tokens[source]
        self._unread.move(source, target)
        self._slots.move(source, target)

    def _forward(
        self,
        ids: Int[Tensor, "r T"],
        positions: Int[Tensor, "r T"],
        window: Window,
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        slots, causal = self._slots, self._causal
        slots.cache.open(window)
        arguments: dict[str, object] = {causal.cache_argument: slots.cache}
        if self._adapters:
            arguments["adapter_names"] = self._adapters * (len(ids) // len(self._adapters))
        seen = slots.seen(positions, window.length)
        return forward(
            causal,
            ids,
            self._runner,
            attention_mask=slots.attention.masks(seen, positions, causal.model.dtype),
            position_ids=positions,
            use_cache=True,
            **arguments,
        )
