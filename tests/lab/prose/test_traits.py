"""The judges of prose: each trait moves as its name says, and knows nothing of the axes."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from lab.prose import traits
from lab.prose.traits import NAMES, score, varying

PLAIN = "The dog sat on the mat. It was warm there."
MORE = {
    "wordiness": PLAIN + " Then it slept for a long while and dreamt.",
    "long sentences": "The dog sat on the mat and it was warm there and then it slept for a while.",
    "hard words": "The veterinarian contemplated extraordinary physiological circumstances. It was warm there.",
    "cheerfulness": "The lovely dog sat happily on the wonderful mat. It was great there.",
    "emotion": "The horrible dog ruined the terrible mat. It was awful there.",
    "lists": "- The dog\n- The mat\n- It was warm there.",
    "emphasis": "# The dog\n\nIt **sat** on the *mat*. It was warm there.",
    "airiness": "The dog sat on the mat.\n\nIt was warm there.",
    "asking": "The dog sat on the mat? It was warm there?",
    "exclaiming": "The dog sat on the mat! It was warm there!",
    "speaking of you": "Your dog sat on the mat. You know it was warm there.",
    "speaking of me": "My dog sat on the mat. I know it was warm there.",
    "numbers": "The 3 dogs sat on 12 mats. It was 25 degrees there.",
    "commas": "The dog, the cat, and the cow sat on the mat. It was warm, dry, and soft there.",
    "like a friend": "Oh no, I'm so sorry, that must be hard for you. I'm here if you want to talk.",
    "like a manual": "First, open the lid. Second, press the button. Then select the option and confirm.",
    "like a story": "The old woman walked through the forest while the wind whispered in the quiet trees.",
}


@pytest.mark.slow
def test_every_trait_moves_as_its_name_says() -> None:
    """A text made for a trait has more of it than a plain one; "easy reading" and "variety" have less."""
    less = {"easy reading": MORE["hard words"], "variety": "The dog the dog the dog the dog. The dog the dog."}
    assert MORE.keys() | less.keys() == set(NAMES)
    plain = dict(zip(NAMES, score([PLAIN])[0], strict=True))
    for name, text in MORE.items():
        assert score([text])[0][NAMES.index(name)] > plain[name], name
    for name, text in less.items():
        assert score([text])[0][NAMES.index(name)] < plain[name], name


def test_odd_texts_have_finite_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text, one sign, another script: a number for each trait."""
    monkeypatch.setattr(traits, "_likeness", lambda texts: np.zeros((len(texts), len(traits.STYLES))))
    scores = score(["", "?", "\U0001f642", "это кошка", "- \n- \n", "a" * 5000])
    assert scores.shape == (6, len(NAMES))
    assert np.isfinite(scores).all()


def test_a_trait_that_hardly_varies_is_left_out() -> None:
    """One reply in twenty has to differ."""
    common = np.zeros(100)
    rare, enough = common.copy(), common.copy()
    rare[:4], enough[:5] = 1, 1
    assert varying(np.stack([common, rare, enough], axis=1)) == [2]


def test_judges_share_no_code_with_the_axes() -> None:
    """Neither traits nor people import anything that measures axes."""
    for name in ("traits", "people"):
        tree = ast.parse((Path(traits.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [module for module in modules if module.startswith(("personalign.learn", "personalign.demo"))]
        assert modules  # the control: something was read
