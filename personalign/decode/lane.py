"""A model at work: a forward pass that also gives the hidden state, and a lane, which keeps a row for every reply.

A lane's rows are slots: replies begin and end in them at any step, whatever the others do. A step reads one token a
row, over the first few slots only; a prompt is read in chunks, by itself, so its bits never depend on neighbours. A
prompt that another slot has read already is copied from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from personalign.decode.cache import Attention, SlotCache, Window, cache_argument
from personalign.decode.load import CausalModel
from personalign.decode.slots import Slots

CHUNK = 512  # tokens of a prompt that are read at once
LENGTH_STEP = 64  # what is read back grows by so many positions

Forward = Callable[[Tensor, Tensor, Window, Tensor], object]  # of token ids, positions, window, and what is visible


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
    hidden: list[Tensor] = []
    if causal.can_keep_logits:
        arguments["logits_to_keep"] = 1
    with causal.lock:
        hook = causal.output_layer.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
        try:
            output = (causal.model if runner is None else runner)(input_ids=ids, **arguments)
        finally:
            hook.remove()
    return output.logits[:, -1].float(), hidden[-1][:, -1]


class Reading:
    """How much a model has read in each slot, what is left of the prompts, and the cache of what it made of them.

    ``copies`` is how many rows a slot has, and ``ahead`` how many positions a step writes beyond what is read.
    """

    def __init__(self, model: PreTrainedModel, slots: Slots, max_length: int, copies: int = 1, ahead: int = 1) -> None:
        self.device, self.copies, self._ahead = slots.device, copies, ahead
        self._attention, self._dtype = Attention.from_config(model.config), model.dtype
        self.max_length = -(-max_length // LENGTH_STEP) * LENGTH_STEP
        self.cache, self._argument = (
            SlotCache(model.config, slots.num_slots * copies, self.max_length),
            cache_argument(model),
        )
        self.lengths = slots.rows(dtype=torch.long)
        self.known = [0] * slots.num_slots  # the lengths, on the host
        self._prompts: dict[int, list[int]] = slots.values()
        self._unread: dict[int, list[int]] = slots.values()
        slots.join(self)

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give an empty slot its prompt."""
        self._prompts[slot], self._unread[slot] = list(prompt), list(prompt)

    def num_unread(self, slot: int) -> int:
        """How many tokens of its prompt a slot has still to read."""
        return len(self._unread.get(slot, []))

    def read(self, slot: int, forward: Forward) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        unread = self._unread.get(slot, [])
        if not self.known[slot] and (source := self._reader_of(unread)) is not None:
            self.cache.copy(self._rows(source), self._rows(slot), len(unread))
            self.known[slot] = self.lengths[slot] = len(unread)
            unread = []
        chunk, self._unread[slot] = unread[:CHUNK], unread[CHUNK:]
        if chunk:
            start = self.known[slot]
            stop = start + len(chunk)
            ids = torch.tensor([chunk], device=self.device).expand(self.copies, -1)
            positions = torch.arange(start, stop, device=self.device).expand(self.copies, -1)
            window = self.window(slot, slot + 1, positions, self.round_up(stop))
            # first: if reading fails half way, so much has to be wiped
            self.known[slot] = stop
            self.lengths[slot] = stop
            forward(ids, positions, window, self.visible(positions, window.length))
        return len(chunk)

    def _reader_of(self, prompt: list[int]) -> int | None:
        """A slot that has read this very prompt; a part of it doesn't do, since other chunks give other bits."""
        have_read = (slot for slot, other in self._prompts.items() if other == prompt and not self.num_unread(slot))
        return next(have_read, None) if prompt else None

    def window(self, start: int, stop: int, written: Int[Tensor, "r T"], length: int) -> Window:
        """The rows of some slots, to write new tokens at these positions and read ``length`` of them."""
        rows = slice(start * self.copies, stop * self.copies)
        return Window(rows, torch.arange(len(written), device=self.device)[:, None], written, length)

    def arguments(
        self, positions: Int[Tensor, "r T"], window: Window, visible: Bool[Tensor, "r T L"]
    ) -> dict[str, object]:
        """What the model is called with beside the tokens, so that it reads and writes the window."""
        self.cache.open(window)
        masks = self._attention.masks(visible, positions, self._dtype)
        return {self._argument: self.cache, "attention_mask": masks, "position_ids": positions, "use_cache": True}

    def visible(self, positions: Int[Tensor, "r T"], length: int) -> Bool[Tensor, "r T L"]:
        """What a token at each position may see: all up to itself."""
        return torch.arange(length, device=self.device) <= positions[:, :, None]

    def span(self, stop: int) -> int:
        """How far back a step over the first ``stop`` slots has to read."""
        return self.round_up(max(self.known[:stop]) + self._ahead)

    def round_up(self, length: int) -> int:
        """The next of the few lengths that are read."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.max_length)

    def advance(self, active: Bool[Tensor, "b"], running: Sequence[int]) -> None:
        """Note that the active slots, which ``running`` names for the host, have read one more."""
        self.lengths[: len(active)] += active
        for slot in running:
            self.known[slot] += 1

    def release(self, slot: int) -> None:
        """Empty a slot. What it held may not be finite: the next reply masks it, but a weight of 0 times NaN is NaN."""
        if self.known[slot]:
            self.cache.wipe(self._rows(slot), self.known[slot] + self._ahead)
            self.known[slot] = 0

    def copy(self, source: int, target: int, newest: int | None = None) -> None:
        """Copy what a slot has read to an empty one, or the newest tokens to one that has read all others already."""
        length = self.known[source]
        start = 0 if newest is None else max(0, length - newest)
        self.cache.copy(self._rows(source), self._rows(target), length, start)
        self.known[target] = length

    def _rows(self, slot: int) -> slice:
        return slice(slot * self.copies, (slot + 1) * self.copies)


class Lane:
    """A model and what it reads in the slots. With adapters, a slot has one row for each, all reading the same."""

    def __init__(
        self,
        causal: CausalModel,
        slots: Slots,
        max_length: int,
        runner: nn.Module | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        self._causal, self._runner, self._adapters = causal, runner, list(adapters)
        self.reading = Reading(causal.model, slots, max_length, copies=len(adapters) or 1)
        self._tokens = slots.rows(dtype=torch.long)  # to be read next

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give an empty slot its prompt, whose last token the first step reads."""
        *before, last = prompt
        self._tokens[slot] = last
        self.reading.begin(slot, before)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        return self.reading.read(slot, self._forward)

    def step(
        self, active: Bool[Tensor, "b"], running: Sequence[int]
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        """Read one token in each of the first b slots; give what follows, a slot's copies one after the other.

        Slots that aren't active are computed and forgotten. ``running`` names the active ones for the host.
        """
        reading, b = self.reading, len(active)
        positions = reading.lengths[:b].repeat_interleave(reading.copies)[:, None]
        ids = self._tokens[:b].repeat_interleave(reading.copies)[:, None]
        window = reading.window(0, b, positions, reading.span(b))
        follows = self._forward(ids, positions, window, reading.visible(positions, window.length))
        reading.advance(active, running)
        return follows

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Take the drawn tokens as what the next step reads; a slot whose prompt is being read keeps its last token."""
        waits = self._tokens[: len(tokens)]
        waits.copy_(torch.where(active, tokens, waits))

    def _forward(
        self, ids: Int[Tensor, "r T"], positions: Int[Tensor, "r T"], window: Window, visible: Bool[Tensor, "r T L"]
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        arguments = self.reading.arguments(positions, window, visible)
        if self._adapters:
            arguments["adapter_names"] = self._adapters * (len(ids) // len(self._adapters))
        return forward(self._causal, ids, self._runner, **arguments)
