"""How people with tastes of their own like SmolLM2's replies: judges, people, arms, and the benchmark."""
