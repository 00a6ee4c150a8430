"""A model at work: a forward pass that also gives the hidden state, and a lane, which keeps a row for every reply.

A lane's rows are slots: replies begin and end in them at any step, whatever the others do. A step reads one token a
row, over the first few slots only; a prompt is read in chunks, by itself, so its bits never depend on neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from personalign.decode.cache import Attention, SlotCache, Window
from personalign.decode.load import CausalModel

CHUNK = 512  # tokens of a prompt that are read at once
LENGTH_STEP = 64  # what is read back grows by so many positions


def forward(
    causal: CausalModel, ids: Int[Tensor, "B T"], runner: nn.Module | None = None, **arguments: object
) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B H"]]:
    """Run the model once; give the logits (float32) and the hidden states at the last position.

    ``runner`` is what is called instead of the model itself, such as a PeftModel around it. The hidden state is
    taken from the output layer's input, because some models scale or cap their logits after that layer.
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
    """Which tokens each slot has read, and the cache of what the model made of them."""

    def __init__(self, causal: CausalModel, num_slots: int, max_length: int, copies: int = 1) -> None:
        self.device, self.copies = causal.device, copies
        self.attention = Attention.of(causal.model.config)
        self.max_length = -(-max_length // LENGTH_STEP) * LENGTH_STEP
        self.cache = SlotCache(causal.model.config, num_slots * copies, self.max_length)
        self.lengths = torch.zeros(num_slots, dtype=torch.long, device=self.device)
        self.known = [0] * num_slots  # the lengths, on the host

    def rows(self, start: int, stop: int) -> slice:
        """The buffers' rows of some slots."""
        return slice(start * self.copies, stop * self.copies)

    def span(self, stop: int, extra: int = 1) -> int:
        """How far back a step over the first ``stop`` slots has to read."""
        return self.round_up(max(self.known[:stop]) + extra)

    def round_up(self, length: int) -> int:
        """The next of the few lengths that are read."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.max_length)

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self.lengths[slot] = 0
        self.known[slot] = 0

    def move(self, source: int, target: int) -> None:
        """Carry a slot's content over to an empty one."""
        self.cache.copy(self.rows(source, source + 1), self.rows(target, target + 1), self.known[source])
        self.lengths[target] = self.known[source]
        self.known[target] = self.known[source]
        self.release(source)


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
        self._slots = Slots(causal, num_slots, max_length, copies=len(adapters) or 1)
        self._tokens = torch.zeros(num_slots, dtype=torch.long, device=causal.device)  # to be read next
        self._unread: dict[int, list[int]] = {}

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give an empty slot its prompt, whose last token the first step reads."""
        *before, last = prompt
        self._tokens[slot] = last
        self._unread[slot] = before

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        unread = self._unread.get(slot)
        if not unread:
            self._unread.pop(slot, None)
            return 0
        chunk, self._unread[slot] = unread[:CHUNK], unread[CHUNK:]
        slots, start = self._slots, self._slots.known[slot]
        positions = torch.arange(start, start + len(chunk), device=slots.device)[None].expand(slots.copies, -1)
        ids = torch.tensor([chunk], device=slots.device).expand(slots.copies, -1)
        self._forward(ids, positions, slots.rows(slot, slot + 1), slots.round_up(start + len(chunk)))
        slots.known[slot] += len(chunk)
        slots.lengths[slot] = slots.known[slot]
        return len(chunk)

    def step(
        self, active: Bool[Tensor, "b"], running: Sequence[int]
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        """Read one token in each of the first b slots; give what follows, a slot's copies one after the other.

        Slots that aren't active are computed and forgotten. ``running`` names the active ones for the host.
        """
        slots, stop = self._slots, len(active)
        positions = slots.lengths[:stop].repeat_interleave(slots.copies)[:, None]
        ids = self._tokens[:stop].repeat_interleave(slots.copies)[:, None]
        follows = self._forward(ids, positions, slots.rows(0, stop), slots.span(stop))
        slots.lengths[:stop] += active
        for slot in running:
            slots.known[slot] += 1
        return follows

    def accept(self, tokens: Int[Tensor, "b"]) -> None:
        """Take the drawn tokens as what the next step reads."""
        self._tokens[: len(tokens)] = tokens

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self._unread.pop(slot, None)
        self._slots.release(slot)

    def wipe(self, slot: int) -> None:
        """Zero what a slot holds, which may not be finite: a masked position's weight is 0, and 0 · NaN is NaN."""
        self._slots.cache.wipe(self._slots.rows(slot, slot + 1))

    def move(self, source: int, target: int) -> None:
        """Carry a slot's content over to an empty one."""
        self._tokens[target] = self._tokens[source]
        if source in self._unread:
            self._unread[target] = self._unread.pop(source)
        self._slots.move(source, target)

    def _forward(
        self, ids: Int[Tensor, "r T"], positions: Int[Tensor, "r T"], rows: slice, length: int
    ) -> tuple[Float[Tensor, "r V"], Float[Tensor, "r H"]]:
        slots, causal = self._slots, self._causal
        place = torch.arange(length, device=slots.device)
        row = torch.arange(len(ids), device=slots.device)[:, None]
        slots.cache.open(Window(rows, row, positions, length))
        arguments: dict[str, object] = {causal.cache_argument: slots.cache}
        if self._adapters:
            arguments["adapter_names"] = self._adapters * (len(ids) // len(self._adapters))
        return forward(
            causal,
            ids,
            self._runner,
            attention_mask=slots.attention.masks(place <= positions[:, :, None], positions, causal.model.dtype),
            position_ids=positions,
            use_cache=True,
            **arguments,
        )
