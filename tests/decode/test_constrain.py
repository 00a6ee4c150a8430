"""A constrained reply keeps to its schema or regex, whatever the model wants; no other reply is touched."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from personalign.bundled import TINY
from personalign.decode import reference
from personalign.decode.constrain import Constrainer, ConstraintRows, Matcher
from personalign.decode.load import CausalModel, load_causal, render
from personalign.decode.request import Request
from personalign.decode.sample import uniforms
from personalign.decode.slots import Slots
from personalign.errors import ConstraintError, InputError, MissingExtra, ModelError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.tiny_models import STEERING, Kit, bits, random_head, talk

CPU = torch.device("cpu")
BASE = TINY / "base"

BOOKING = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "guests": {"type": "integer", "minimum": 1, "maximum": 9},
        "pets": {"type": "boolean"},
    },
    "required": ["city", "guests", "pets"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"enum": ["red", "grün", "blue", 7]}, "minItems": 1, "maxItems": 4}
NESTED = {
    "type": "object",
    "properties": {"a": {"type": ["number", "null"]}, "b": {"anyOf": [{"const": "x"}, {"$ref": "#/$defs/pair"}]}},
    "required": ["b"],
    "additionalProperties": False,
    "$defs": {
        "pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": 3}], "items": False, "minItems": 2}
    },
}
TEXT = {"type": "string", "maxLength": 20}


def _is_booking(value: object) -> bool:
    return (
        isinstance(value, dict)
        and list(value) == ["city", "guests", "pets"]
        and isinstance(value["city"], str)
        and len(value["city"]) <= 12
        and value["guests"] in range(1, 10)
        and isinstance(value["pets"], bool)
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 4 and all(x in ("red", "grün", "blue", 7) for x in value)


def _is_nested(value: object) -> bool:
    a, b = value.get("a"), value["b"]
    return (
        {"b"} <= set(value) <= {"a", "b"}
        and (a is None or isinstance(a, int | float))
        and (b == "x" or (isinstance(b[0], bool) and b[1:] == [3]))
    )


SCHEMAS: dict[str, tuple[dict[str, object], Callable[[object], bool]]] = {
    "booking": (BOOKING, _is_booking),
    "list": (LIST, _is_list),
    "nested": (NESTED, _is_nested),
    "text": (TEXT, lambda value: isinstance(value, str) and len(value) <= 20),
}
REGEXES = [
    "yes|no|maybe",
    r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]",
    r"(Hotel|Hôtel) [A-Z][a-z]{2,8}, [1-5]★",
    r"\+?[0-9 ]{3,10}",
    "(日本)*(é|😀){1,3}",
    "a/b\"c'd\\\\?\n",
    "",
]


def constraint_rows(num_slots: int, num_ids: int, device: str = "cpu") -> ConstraintRows:
    """Constraints in slots that belong to nothing else."""
    slots = Slots(num_slots, torch.device(device))
    rows = ConstraintRows(slots, num_ids)
    rows.slots = slots
    return rows


@pytest.fixture(scope="module")
def base() -> CausalModel:
    return load_causal(BASE, "cpu")


@pytest.fixture(scope="module")
def constrainer(base: CausalModel) -> Constrainer:
    return Constrainer(base.tokenizer, base.num_logits, base.ends)


Logits = Callable[[list[int]], Tensor]


def _random(size: int, seed: int) -> Logits:
    """Logits that want anything, the end as much as the rest."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _: 4 * torch.randn(size, generator=generator)


def _wanted(base: CausalModel, text: str) -> Logits:
    """What the bundled model itself would write."""
    prompt = render(base.tokenizer, talk(text)[0])
    return lambda ids: reference.read(base, [*prompt, *ids])[0]


def _written(
    causal: CausalModel, matcher: Matcher | None, logits: Logits, sampling: Options
) -> tuple[str, bool, list[int]]:
    """A reply by a plain loop, whether it ended by itself, and how many tokens were allowed at each step."""
    rows, ids, widths = constraint_rows(3, causal.num_logits), [], []
    if matcher is not None:
        rows.admit(1, matcher)
    for u in uniforms(sampling.seed, [], sampling.max_tokens).tolist():
        masked = rows.mask(logits(ids).expand(2, -1))[1]
        widths.append(int(masked.isfinite().sum()))
        token = reference.drawn(masked, sampling, u)
        rows.advance(np.array([-1, token]), [1])
        if token in causal.ends:
            return causal.detokenize(ids), True, widths
        ids.append(token)
    assert rows.dead(1) is None
    return causal.detokenize(ids), False, widths


def _parses(text: str, is_meant: Callable[[object], bool]) -> bool:
    try:
        return bool(is_meant(json.loads(text)))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return False


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_bundled_model_keeps_to_a_schema(
    base: CausalModel, constrainer: Constrainer, name: str, temperature: float
) -> None:
    """Greedy or sampled, a reply that ends by itself is JSON that meets the schema; without the mask it isn't."""
    schema, is_meant = SCHEMAS[name]
    for seed, text in enumerate(["I need a hotel in Paris", "Book me a table for two"]):
        sampling, logits = Options(60, temperature, seed=seed), _wanted(base, text)
        reply, has_ended, _ = _written(base, constrainer.compile(schema, None), logits, sampling)
        assert has_ended
        assert _parses(reply, is_meant), reply
        free, _, _ = _written(base, None, logits, sampling)
        assert not _parses(free, is_meant)  # control


@pytest.mark.parametrize("regex", REGEXES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_bundled_model_keeps_to_a_regex(
    base: CausalModel, constrainer: Constrainer, regex: str, temperature: float
) -> None:
    """Greedy or sampled, a reply that ends by itself matches as a whole; without the mask it doesn't."""
    sampling, logits = Options(40, temperature, seed=1), _wanted(base, "I need a hotel in Paris")
    reply, has_ended, _ = _written(base, constrainer.compile(None, regex), logits, sampling)
    assert has_ended
    assert re.fullmatch(regex, reply), reply
    free, _, _ = _written(base, None, logits, sampling)
    assert not re.fullmatch(regex, free)  # control


def test_random_logits_keep_to_it_too(base: CausalModel, constrainer: Constrainer) -> None:
    """A thousand steps of logits that want anything: every reply that ended is what was asked for, and most ended."""
    num_steps = num_ended = num_replies = 0
    cases = [({"schema": schema}, is_meant) for schema, is_meant in SCHEMAS.values()]
    cases += [({"regex": regex}, None) for regex in REGEXES if regex]
    while num_steps < 1000:
        given, is_meant = cases[num_replies % len(cases)]
        sampling = Options(60, 1.0, seed=num_replies)
        matcher = constrainer.compile(given.get("schema"), given.get("regex"))
        reply, has_ended, widths = _written(base, matcher, _random(base.num_logits, num_replies), sampling)
        if has_ended:
            assert _parses(reply, is_meant) if is_meant else re.fullmatch(given["regex"], reply), reply
        num_steps, num_ended, num_replies = num_steps + len(widths), num_ended + has_ended, num_replies + 1
    assert num_ended > 0.9 * num_replies > 20


def is_finished(matcher: Matcher) -> bool:
    """Whether the reply is whole, and nothing but its end may follow."""
    return matcher._grammar.is_stopped() and not matcher._grammar.is_error()


def test_the_end_is_allowed_where_the_grammar_may_end_and_only_there(
    constrainer: Constrainer, base: CausalModel
) -> None:
    """After an even number of letters the end may be drawn; once no letter may follow, nothing but the end."""
    rows, end = constraint_rows(1, base.num_logits), base.ends[0]
    matcher = constrainer.compile(None, "(ab){0,2}")
    rows.admit(0, matcher)
    letters = {letter: base.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ab"}
    for letter, may_end in zip("abab", (True, False, True, False), strict=True):
        masked = rows.mask(torch.zeros(1, base.num_logits))[0]
        assert (masked[end] == 0, is_finished(matcher)) == (may_end, False)
        assert masked[letters[letter]] == 0
        rows.advance(np.array([letters[letter]]), [0])
    assert is_finished(matcher)
    for _ in range(2):  # also after the end was drawn
        masked = rows.mask(torch.zeros(1, base.num_logits))[0]
        assert masked.isfinite().nonzero().flatten().tolist() == [end]
        rows.advance(np.array([end]), [0])
    assert rows.dead(0) is None


def test_every_end_token_and_no_padding_is_allowed(base: CausalModel) -> None:
    """A model may have several ends; rows of the output layer that are no token are never drawn."""
    constrainer = Constrainer(base.tokenizer, base.num_logits + 37, [2, 0])
    rows = constraint_rows(2, base.num_logits + 37)
    for slot, regex in enumerate(("", ".*")):
        rows.admit(slot, constrainer.compile(None, regex))
    masked = rows.mask(torch.zeros(2, base.num_logits + 37))
    assert masked[0].isfinite().nonzero().flatten().tolist() == [0, 2]
    assert masked[1, [0, 2]].isfinite().all()
    assert not masked[1, base.num_logits :].isfinite().any()
    for end in (0, 2):
        matcher = constrainer.compile(None, "a?")
        matcher.advance(end)
        assert is_finished(matcher)


def test_a_constraint_wins_over_reward_expert_and_bias(kit: Kit, weights: np.ndarray) -> None:
    """In the reference what may not follow is no candidate, however much anybody wants it."""
    wish = Guidance(weights, 100.0)
    for seed in range(3):
        sampling = Options(12, 1.0, seed=seed, logit_bias={40: 100.0}, repetition_penalty=2.0)
        request = Request(talk("hello")[0], replace(sampling, expert="whole", alpha=1.0, regex="[ab]{3}"), wish)
        models = kit.models(head=random_head(1), steering=replace(STEERING, beta=5.0))
        reply = reference.generate(models, request)
        assert re.fullmatch("[ab]{3}", reply.text)
        assert reply.finish_reason == "stop"
        free = reference.generate(models, replace(request, options=replace(request.options, regex=None)))
        assert not re.fullmatch("[ab]{3}", free.text)  # control


def test_a_reward_still_chooses_among_what_is_allowed(base: CausalModel, kit: Kit, weights: np.ndarray) -> None:
    """The short list is cut from the allowed tokens, so a wish can move a constrained reply."""
    request = Request(talk("hello")[0], Options(8, regex="[a-z]{3}"), Guidance(weights, 20.0))
    guided, effect = reference.steered(kit.models(), request, [])
    assert guided.isfinite().sum() == STEERING.num_candidates
    assert effect.kl > 0
    plain, _ = reference.steered(kit.models(), replace(request, guidance=None), [])
    assert set(guided.isfinite().nonzero().flatten().tolist()) <= set(plain.isfinite().nonzero().flatten().tolist())


def test_schemas_may_be_text_or_nested_mappings_and_choose_their_spaces(
    constrainer: Constrainer, base: CausalModel
) -> None:
    """A mapping, its JSON text and a read-only view mean the same; x-guidance in the schema may allow other spaces."""
    logits, sampling = _random(base.num_logits, 0), Options(60, 1.0, seed=0)
    replies = {
        _written(base, constrainer.compile(schema, None), _random(base.num_logits, 0), sampling)[0]
        for schema in (LIST, json.dumps(LIST), MappingProxyType(LIST))
    }
    (reply,) = replies
    assert reply == json.dumps(json.loads(reply), ensure_ascii=False)
    tight = {**LIST, "minItems": 2, "x-guidance": {"item_separator": ","}}
    assert ", " not in _written(base, constrainer.compile(tight, None), logits, sampling)[0]


# ---------------------------------------------------------------- other tokenizers


def _sentencepiece_like() -> PreTrainedTokenizerFast:
    """Pieces with ▁ for a space, and bytes for characters that have no piece: as Llama 2's and Gemma's."""
    words = ["▁yes", "▁no", "yes", "no", "▁", '"', "{", "}", ":", ",", "[", "]", "a", "b", "c", '▁"', '":', "é"]
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *words]
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "given", [({"type": "array", "items": {"enum": ["é", "yes", "日"]}}, None), (None, "(yes|no) (日|é)+")]
)
def test_pieces_with_byte_fallback_are_understood(given: tuple[dict[str, object] | None, str | None]) -> None:
    """Random replies of a SentencePiece-like tokenizer, some characters of which are bytes, keep to it."""
    words = _sentencepiece_like()
    constrainer, end = Constrainer(words, 300, [2]), 2
    for seed in range(30):
        matcher, rows, ids = constrainer.compile(*given), constraint_rows(1, 300), []
        rows.admit(0, matcher)
        logits = _random(300, seed)
        while end not in ids:
            ids.append(int(rows.mask(logits(ids)[None]).argmax()))
            rows.advance(np.array([ids[-1]]), [0])
        text = words.decode(ids[:-1])
        if given[0] is None:
            assert re.fullmatch(given[1], text), text
        else:
            assert set(json.loads(text)) <= {"é", "yes", "日"}


def test_a_tokenizer_that_cannot_be_used_is_refused(base: CausalModel) -> None:
    """No end token, fewer logits than tokens, or no fast tokenizer: each is named."""
    with pytest.raises(ModelError, match="no end token"):
        Constrainer(base.tokenizer, base.num_logits, [])
    with pytest.raises(ModelError, match="vocab size too small"):
        Constrainer(base.tokenizer, 100, base.ends)
    from transformers import PreTrainedTokenizer

    with pytest.raises(ModelError, match="expected a fast tokenizer"):
        Constrainer(PreTrainedTokenizer.__new__(PreTrainedTokenizer), 100, [2])


def test_without_the_extra_the_command_to_install_it_is_named(
    base: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding without constraints doesn't need llguidance; asking for one says what to do."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.delitem(sys.modules, "llguidance.hf", raising=False)
    rows = constraint_rows(1, 8)
    assert rows.dead(0) is None
    with pytest.raises(MissingExtra, match=re.escape("pip install 'personalign[constrain]'")):
        Constrainer(base.tokenizer, base.num_logits, base.ends)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "colour"}, "Invalid type: colour"),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "greater than maximum"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"not": {"type": "integer"}}, 'Unimplemented keys: ."not"'),
        ({"$ref": "https://example.com/schema.json"}, "not present in a registry"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "the schema can't be used"),
        ('{"type": ', "the schema isn't JSON"),
        ("[]", "expected an object such as"),
        ('{"not": ' * 5000 + "1" + "}" * 5000, "the schema"),
        ({"enum": {1, 2}}, "the schema isn't JSON"),
        ({"const": math.nan}, "the schema isn't JSON"),
        ({"type": "integer", "minimum": 10**400}, "number out of range"),
        ('{"const": NaN}', "the schema isn't JSON"),
    ],
)
def test_schemas_that_cannot_be_met_are_refused(constrainer: Constrainer, schema, complaint: str) -> None:
    """With the library's reason in one line, before any token is written."""
    with pytest.raises(ConstraintError, match=complaint) as caught:
        constrainer.compile(schema, None)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("regex", "complaint"),
    [
        ("(", "unclosed group"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"a\b", "lookarounds"),
        (r"[^\s\S]", "the regex can't be used"),
        (r"a[^\s\S]", "the regex can't be used"),
        ("(" * 1000 + ")" * 1000, "the regex can't be used"),
    ],
)
def test_regexes_that_cannot_be_met_are_refused(constrainer: Constrainer, regex: str, complaint: str) -> None:
    """What Rust's regexes don't know, what is malformed, and what no text matches."""
    with pytest.raises(ConstraintError, match=complaint) as caught:
        constrainer.compile(None, regex)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- rows

SIZE = 4096


def _drive(rows: ConstraintRows, steps: list[Tensor], slots: list[int]) -> list[Tensor]:
    """Masked logits of each step, each row taking its best token."""
    seen = []
    for logits in steps:
        masked = rows.mask(logits)
        rows.advance(masked.argmax(-1).numpy(), slots)
        seen.append(masked)
    return seen


def _steps(num: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, SIZE, generator=generator) for _ in range(num)]


def test_neighbours_keep_every_bit(constrainer: Constrainer) -> None:
    """Rows without a constraint pass as they are, minus zeros, infinities and NaN included; without any, the tensor."""
    rows, logits = constraint_rows(4, SIZE), _steps(1)[0]
    logits[:, :4] = torch.tensor([-0.0, math.inf, -math.inf, math.nan])
    assert rows.mask(logits) is logits
    rows.admit(2, constrainer.compile(BOOKING, None))
    masked = rows.mask(logits)
    for row in (0, 1, 3):
        assert torch.equal(bits(masked[row]), bits(logits[row]))
    assert masked[2].isfinite().sum() == 1  # control: '{'
    assert rows.mask(logits[:2]).data_ptr() == logits.data_ptr()  # the constrained row isn't part of this step


def test_a_row_is_its_own_whoever_is_beside_it(constrainer: Constrainer) -> None:
    """Joined, moved and left by others, a constrained row gets the masks it gets alone."""
    steps = _steps(8)
    alone = constraint_rows(4, SIZE)
    alone.admit(1, constrainer.compile(TEXT, None))
    expected = [masked[1] for masked in _drive(alone, steps, [1])]
    rows = constraint_rows(4, SIZE)
    rows.admit(1, constrainer.compile(TEXT, None))
    rows.admit(3, constrainer.compile(None, "[a-z]+"))
    seen = [masked[1] for masked in _drive(rows, steps[:3], [1, 3])]
    rows.slots.move(1, 0)
    rows.admit(2, constrainer.compile(LIST, None))
    rows.slots.release(3)
    swapped = [logits[[1, 0, 2, 3]] for logits in steps[3:]]
    seen += [masked[0] for masked in _drive(rows, swapped, [0, 2])]
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(seen, expected, strict=True))
    assert any(not torch.equal(a.isfinite(), b.isfinite()) for a, b in pairwise(seen))  # control: the masks change
    for slot in (0, 2):
        rows.slots.release(slot)
    assert rows.mask(steps[0]) is steps[0]
    rows.admit(0, constrainer.compile(None, "x"))
    assert all(torch.equal(bits(rows.mask(steps[0])[row]), bits(steps[0][row])) for row in (1, 2, 3))


def test_a_row_that_does_not_go_on_stays_where_it_is(constrainer: Constrainer) -> None:
    """Tokens of slots that aren't named are no part of any reply."""
    rows, steps = constraint_rows(4, SIZE), _steps(2)
    rows.admit(1, constrainer.compile(BOOKING, None))
    first = rows.mask(steps[0])
    rows.advance(np.zeros(4, dtype=np.int64), [])
    assert torch.equal(bits(rows.mask(steps[0])), bits(first))
    rows.advance(first.argmax(-1).numpy(), [1])
    assert not torch.equal(bits(rows.mask(steps[0])), bits(first))  # control


def test_a_dead_end_is_one_replys_error(constrainer: Constrainer, base: CausalModel) -> None:
    """A reply that can't go on is told so, with a typed error, and may only end; its neighbour goes on."""
    rows, steps = constraint_rows(4, SIZE), _steps(2)
    rows.admit(0, constrainer.compile(BOOKING, None))
    rows.admit(1, constrainer.compile(BOOKING, None))
    ids = rows.mask(steps[0]).argmax(-1).numpy()
    ids[0] = base.tokenizer("x", add_special_tokens=False)["input_ids"][0]  # as a caller's own steer may force it
    rows.advance(ids, [0, 1])
    assert rows.dead(1) is None
    assert isinstance(rows.dead(0), ConstraintError)
    assert "doesn't satisfy the grammar" in str(rows.dead(0))
    masked = rows.mask(steps[1])
    assert masked[0].isfinite().nonzero().flatten().tolist() == list(base.ends)
    assert masked[1].isfinite().any()
    rows.advance(masked.argmax(-1).numpy(), [0, 1])
    assert isinstance(rows.dead(0), ConstraintError)  # the end was drawn, but the reply isn't whole
    rows.slots.release(0)
    assert rows.dead(0) is None


def test_a_mask_is_on_the_device(constrainer: Constrainer) -> None:
    """No tensor of the CPU is mixed in, which torch's meta device refuses as CUDA does."""
    rows = constraint_rows(4, SIZE, "meta")
    rows.admit(1, constrainer.compile(BOOKING, None))
    logits = _steps(1)[0]
    assert rows.mask(logits.to("meta")).is_meta
    with pytest.raises(RuntimeError, match="meta"):  # control: logits that were left behind
        rows.mask(logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_masks_what_a_cpu_does(constrainer: Constrainer) -> None:
    """The bits are told apart alike on CUDA."""
    places = {device: constraint_rows(4, SIZE, device) for device in ("cpu", "cuda")}
    for rows in places.values():
        rows.admit(1, constrainer.compile(BOOKING, None))
        rows.admit(2, constrainer.compile(None, ".*"))
    for logits in _steps(6):
        here, there = (rows.mask(logits.to(device)).cpu() for device, rows in places.items())
        assert torch.equal(bits(here), bits(there))
        for rows in places.values():
            rows.advance(here.argmax(-1).numpy(), [1, 2])
