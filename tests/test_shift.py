"""What moved each token: held to the reference, whose distributions are computed token by token without a cache."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from personalign.cli.show import coloured, legend
from personalign.decode import Request, reference, render
from personalign.decode.engine import generate
from personalign.errors import InputError
from personalign.options import Options
from personalign.shift import Likely, Position, ShiftedReply, by_token, shift
from personalign.types import Guidance
from tests.decode.tiny_models import Kit, make_kit, talk

GUIDANCE = Guidance(np.array([1.0, -2.0, 0.5]))
WORDS = ("cat", "the hat", "日")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(request.param, tmp_path_factory.mktemp(request.param))


REQUESTS = {
    "guidance": (Options(16), GUIDANCE),
    "expert": (Options(16, expert="hotels"), None),
    "both, drawn": (Options(16, 1.0, 0.9, seed=3, expert="whole"), GUIDANCE),
    "with penalties": (Options(16, repetition_penalty=1.3), GUIDANCE),
    "up to a stop string": (Options(16, stop=("t",)), GUIDANCE),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_every_position_is_the_references(kit: Kit, case: str) -> None:
    """Before is the model's own distribution after the same tokens, after is what the token was drawn from."""
    models = kit.models()
    requests = [Request(messages, *REQUESTS[case]) for messages in talk(*WORDS)]
    written = generate(models, requests)
    for request, generated, reply in zip(requests, written, shift(models, requests), strict=True):
        assert reply.text == generated.text
        assert tuple(position.id for position in reply.positions)[: len(generated.ids)] == generated.ids
        plain = replace(request, options=replace(request.options, expert=None), guidance=None)
        ids: list[int] = []
        for position in reply.positions:
            for found, top, asked in (
                (position.before, position.top_before, plain),
                (position.after, position.top_after, request),
            ):
                p = reference.steered(models, asked, ids)[0].softmax(-1)
                assert found == pytest.approx(float(p[position.id]), abs=1e-4)
                assert top.probability == pytest.approx(float(p.max()), abs=1e-4)
                assert float(p[top.id]) == pytest.approx(top.probability, abs=1e-4)
            ids.append(position.id)


def test_before_is_read_after_the_same_tokens(kit: Kit) -> None:
    """The control: what the model says after its own, other tokens would be found different."""
    models = kit.models()
    request = Request(talk("cat")[0], Options(16), GUIDANCE)
    (reply,) = shift(models, [request])
    own = generate(models, [replace(request, guidance=None)])[0].ids
    assert own != tuple(position.id for position in reply.positions)[: len(own)]
    prompt = render(kit.base.tokenizer, request.messages)
    others = [reference.read(kit.base, [*prompt, *own[:n]])[0].softmax(-1) for n in range(len(own))]
    pairs = zip(reply.positions, others, strict=False)
    assert any(abs(position.before - float(p[position.id])) > 1e-2 for position, p in pairs)


def test_the_ends_are_counted_and_texts_join(kit: Kit) -> None:
    """A reply's parts join to its text; a token that ends it is a position with a name and no text."""
    models = kit.models()
    (end,) = kit.base.ends
    drawn = [Options(40, 1.0, seed=seed, logit_bias={end: 4.0}) for seed in range(9)]
    requests = [Request(messages, one, GUIDANCE) for messages, one in zip(talk(*WORDS * 3), drawn, strict=True)]
    replies = shift(models, requests)
    assert all(reply.text.startswith("".join(p.added for p in reply.positions)) for reply in replies)
    ended = [reply for reply in replies if reply.positions[-1].id == end]
    assert ended
    assert all((r.positions[-1].added, r.positions[-1].token) == ("", "<|end|>") for r in ended)
    assert all(coloured(r).plain.endswith("<|end|>") for r in ended)


def test_where_nothing_moves_it_is_said(kit: Kit) -> None:
    """Nobody and no expert, strength 0, α = 0, an expert that is its own anti-expert and no prompt are refused.

    One person among them is enough.
    """
    models, (messages, *_) = kit.models(), talk("cat")
    nobody = Request(messages, Options(4))
    for still, said in (
        ([nobody], "no_answers"),
        ([replace(nobody, guidance=replace(GUIDANCE, strength=0.0))], "strength_zero"),
        ([replace(nobody, options=replace(nobody.options, expert="hotels", alpha=0.0))], "name an expert"),
        ([replace(nobody, options=replace(nobody.options, expert="empty"))], "name an expert"),
        ([], "no prompt"),
    ):
        with pytest.raises(InputError, match=said):
            shift(models, still)
    unmoved, moved = shift(models, [nobody, replace(nobody, guidance=GUIDANCE)])
    assert all(position.change == 0 and not position.is_top_changed for position in unmoved.positions)
    assert any(position.change != 0 for position in moved.positions)


PROBABILITY = st.floats(0, 1)


def position(token: int, before: float, after: float, top: int = 0) -> Position:
    return Position(token, f"t{token}", f"t{token}", before, after, Likely(0, "t0", before), Likely(top, "", after))


@given(st.lists(st.builds(position, st.integers(0, 4), PROBABILITY, PROBABILITY, st.integers(0, 1)), min_size=1))
def test_tokens_are_summed_up(positions: list[Position]) -> None:
    """Every position is in one row; rows are in order of mean |Δp| · count; their sums are those of the positions."""
    half = len(positions) // 2
    replies = [
        ShiftedReply("", "", guided=True, reason=None, positions=tuple(part))
        for part in (positions[:half], positions[half:])
    ]
    rows = by_token(replies)
    assert [row.id for row in rows] == list(dict.fromkeys(row.id for row in rows))
    assert sum(row.count for row in rows) == len(positions)
    assert sum(row.moved for row in rows) == pytest.approx(sum(abs(p.change) for p in positions))
    assert sum(row.mean_change * row.count for row in rows) == pytest.approx(sum(p.change for p in positions))
    assert sum(row.top_changed * row.count for row in rows) == pytest.approx(sum(p.is_top_changed for p in positions))
    assert all(first.moved >= second.moved for first, second in pairwise(rows))


def test_colours_tell_up_from_down() -> None:
    """What became likelier and what became less likely have different shades, little change none; HTML shows them."""
    moved = [position(1, 0.1, 0.9), position(2, 0.9, 0.1), position(3, 0.5, 0.505)]
    text = coloured(ShiftedReply("", "t1t2t3", guided=True, reason=None, positions=tuple(moved)))
    assert text.plain == "t1t2t3"
    assert len({str(span.style) for span in text.spans}) == 2
    console = Console(record=True, color_system="truecolor", file=io.StringIO())
    console.print(text, legend())
    assert console.export_html(inline_styles=True).count("background-color") >= 2 + 6
