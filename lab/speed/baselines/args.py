"""ARGS the straightforward way: k copies of the text so far, in the reward model's cache as well as in its first batch.

score(v) = logit(v) + w · r(x, y, v) over the k likeliest tokens, of which the best is taken: Khanov et al., arXiv
2402.01694, algorithm 1 with greedy selection. One reply at a time and one reward; every candidate is a row of a batch,
and after each token all rows of the cache become copies of the chosen one. ``decode/args.py`` writes the same tokens
over one shared prefix; ``decode/reference.py`` is what both are held to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from personalign.decode.cache import cache_argument
from personalign.decode.load import CausalModel
from personalign.decode.reward_model import RewardModel

NUM_CANDIDATES, WEIGHT = 10, 1.5  # k and w of the paper's release


@torch.no_grad()
def generate(base: CausalModel, reward: RewardModel, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Write a reply; both models read the same tokens."""
    read, judged = DynamicCache(), DynamicCache()
    to_read, to_judge = {cache_argument(base.model): read}, {cache_argument(reward.backbone): judged}
    unread = unjudged = torch.tensor([prompt], device=base.device)
    ids: list[int] = []
    while len(ids) < max_tokens:
        output = base.model(input_ids=unread, use_cache=True, **to_read)
        logits = output.logits[0, -1].float()
        if not ids and int(logits.argmax()) not in base.ends:  # a guided reply isn't empty
            logits[list(base.ends)] = -torch.inf
        best = logits.topk(NUM_CANDIDATES)
        rows = torch.cat([unjudged.expand(NUM_CANDIDATES, -1), best.indices[:, None]], dim=-1)
        hidden = reward.backbone(input_ids=rows, use_cache=True, **to_judge).last_hidden_state
        scores = best.values + WEIGHT * reward.score(hidden[:, -1:])[:, 0, 0]
        chosen = scores.argmax()
        judged.batch_select_indices(chosen.expand(NUM_CANDIDATES))
        unread, unjudged = best.indices[chosen].view(1, 1), rows[:1, :0]
        if int(unread) in base.ends:
            break
        ids.append(int(unread))
    return ids
