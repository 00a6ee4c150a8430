"""Texts of all kinds, and of the marks and words that axes look at."""

from __future__ import annotations

from hypothesis import strategies as st

BITS = [
    *("sure", "great", "I'm", "you", "may", "or", ",", ".", "!", "?", "Paris", "9:30", "and", "confirm", "would"),
    *("such as", "(so)", "— then", "let me know", "🙂", "\n- the", "\n1. go", "\n## Top", "**bold**", "\n\n", "```"),
    *("\n```\n", "`x`", "| a |"),
]
texts = st.text(max_size=200) | st.lists(st.sampled_from(BITS), max_size=40).map(" ".join)
