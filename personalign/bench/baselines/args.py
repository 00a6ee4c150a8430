"""ARGS the straightforward way: for every token, the reward model's cache is copied once for each candidate.

score(v) = logit(v) + w · r(x, y, v) over the k likeliest tokens, of which the best is taken: Khanov et al., arXiv
2402.01694, algorithm 1 with greedy selection. One reply at a time, both models with a cache, one reward.
``decode/args.py`` writes the same tokens over one shared prefix; ``decode/reference.py`` is what both are held to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from personalign.decode.backbone import RewardModel
from personalign.decode.load import CausalModel

NUM_CANDIDATES, WEIGHT = 10, 1.5  # k and w of the paper's release


@torch.no_grad()
def generate(base: CausalModel, reward: RewardModel, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """Write a reply; both models read the same tokens."""
    read, judged = DynamicCache(), DynamicCache()
    tokens = torch.tensor([prompt], device=base.device)
    reward.backbone(input_ids=tokens, use_cache=True, **{reward.cache_argument: judged})
    ids: list[int] = []
    while len(ids) < max_tokens:
        output = base.model(input_ids=tokens, use_cache=True, logits_to_keep=1, **{base.cache_argument: read})
        best = output.logits[0, -1].float().topk(NUM_CANDIDATES)
        judged.batch_repeat_interleave(NUM_CANDIDATES)
        candidates = reward.backbone(
            input_ids=best.indices[:, None], use_cache=True, **{reward.cache_argument: judged}
        ).last_hidden_state
        scores = best.values + WEIGHT * reward.score(candidates)[:, 0, 0]
        chosen = scores.argmax()
        judged.batch_select_indices(chosen[None])
        tokens = best.indices[chosen][None, None]
        if int(tokens) in base.ends:
            break
        ids.append(int(tokens))
    return ids
