"""Whether wishes are understood: sentences with what they say, made up and from real dialogues."""
