"""How SmolLM2's basis is made, and of which prompts."""
