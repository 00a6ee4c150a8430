"""People's rewards inside vLLM: one forward pass serves everybody, and each request is steered by its own person.

``models.py`` lets the model's class hand over its hidden states, ``processor.py`` steers by them: these two import
vLLM. ``people.py`` finds out whom a request is for, ``batch.py`` keeps who is steered in which slot, ``passage.py`` is
what the first two share. ``contracts.py`` says what has to hold of the installed vLLM, ``server.py`` starts it.
"""

from __future__ import annotations

PROCESSOR = "personalign.integrations.vllm.processor:Personal"  # as vLLM's --logits-processors takes it
