"""Options that mean nothing are refused where they are made, by name; those that mean something are kept."""

import math
from dataclasses import fields

import numpy as np
import pytest

from personalign.decode.request import Request
from personalign.errors import InputError
from personalign.options import Options, OptionsDict

HELLO = ({"role": "user", "content": "hello"},)
NESTED: dict[str, object] = {}
for _ in range(100_000):
    NESTED = {"properties": NESTED}
ROUND: dict[str, object] = {}
ROUND["properties"] = ROUND


class Unspeakable:
    """What can't even be shown in an error."""

    def __repr__(self) -> str:
        raise RuntimeError("no name")


WRONG = {
    "temperature": (math.nan, math.inf, -0.1, 10.1, "warm", "1", True, None, [], 10**400, 10**5000, Unspeakable()),
    "top_p": (0, 1.1, -1, "all", math.nan, None, np.array([0.5, 0.5])),
    "min_p": (1.1, math.nan, None, {}),
    "max_tokens": (0, -1, 2.5, True, "64", 2**31, 10**5000),
    "top_k": (-1, 2.5, True, "7", None, 2**31),
    "seed": (-1, 0.5, True, "7", 2**63),
    "repetition_penalty": (0.0, 10.1, math.nan, "1"),
    "presence_penalty": (2.1, -2.1, None),
    "frequency_penalty": (-math.inf, 3, "0"),
    "logprobs": (21, -1, True, 1.0, None),
    "strength": (-1, 101, math.nan, "1", None, [1.0]),
    "alpha": (-0.1, 1e9, math.nan, "0.5", True),
    "rule": ("args ", "", None, 3, ["args"], np.array(["args", "successor"])),
    "num_siblings": (0, -1, 17, 2.0, True, "4", None),
    "block_tokens": (0, 257, 1.5, True, "16", None),
    "expert": ([], {}, 3, True, b"hotels"),
    "logit_bias": ([(1, 2.0)], {"7": 1.0}, {7: math.nan}, {7: 101}, {-1: 1.0}, {True: 1.0}, {7: "1"}, "7", None),
    "stop": ("###", (3,), ("a", ""), ("a",) * 17, ("x" * 257,), ("\ud800",), None, {"a": 1}, {"a"}),
    "schema": (3, [], b"{}", "\ud800", {"title": "\ud800"}, {"a": math.nan}, {"a": object()}, NESTED, ROUND),
    "regex": (3, ["a"], "\udc00", "x" * 100_001, b"a"),
}


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, values in WRONG.items() for i in range(len(values))])
def test_options_that_mean_nothing_are_refused(name: str, number: int) -> None:
    """Wrong types, NaN, numbers too large to print, half characters: each is an InputError that names the option."""
    with pytest.raises(InputError, match=name) as refusal:
        Options(**{name: WRONG[name][number]})
    assert len(str(refusal.value)) < 300
    str(refusal.value).encode()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"temperature": "warm"}, "temperature is 'warm', expected a number from 0 to 10"),
        ({"top_p": 0}, "pass temperature=0"),
        ({"top_k": -1}, "top_k is -1, expected a whole number from 0"),
        ({"logit_bias": {7: 101}}, r"logit_bias\[7\] is 101, expected a number from -100 to 100"),
        ({"logit_bias": [(1, 2.0)]}, "expected a mapping from token ids"),
        ({"stop": "###"}, "stop is '###', expected a list of strings"),
        ({"stop": ["a"] * 17}, "stop holds 17 strings, expected at most 16"),
        ({"stop": ["x" * 257]}, "stop holds a string of 257 characters, expected 1 to 256"),
        ({"rule": "arg"}, "rule is 'arg', expected one of successor, args, blocks, best_of"),
        ({"num_siblings": 17}, "num_siblings is 17, expected a whole number from 1 to 16"),
        ({"block_tokens": 0}, "block_tokens is 0, expected a whole number from 1 to 256"),
        ({"rule": "blocks"}, r"temperature is 0, at which all siblings.*expected more than 0; pass temperature=0.7"),
        ({"rule": "best_of"}, "temperature is 0, at which all siblings"),
        ({"expert": []}, r"expert is \[\], expected a name"),
        ({"schema": {"type": "object"}, "regex": "a"}, "both given, expected one of them"),
    ],
)
def test_a_refusal_says_what_was_expected(options: OptionsDict, complaint: str) -> None:
    """It tells what was found, what was expected, and what to do."""
    with pytest.raises(InputError, match=complaint):
        Options(**options)


@pytest.mark.parametrize(
    ("keyword", "near"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("topp", "top_p"), ("stops", "stop")],
)
def test_a_misspelt_option_is_answered_with_the_nearest(keyword: str, near: str) -> None:
    """A keyword that nobody knows is never ignored; far from all of them, they are listed."""
    with pytest.raises(InputError, match=rf"{keyword}.*did you mean {near}\?"):
        Options.from_keywords({keyword: 1})
    with pytest.raises(InputError, match=r"expected some of max_tokens, temperature"):
        Options.from_keywords({"zzz": 1})
    assert Options.from_keywords({"top_p": 0.5}) == Options(top_p=0.5)


def test_the_keywords_are_the_options() -> None:
    """What a type checker allows ``chat`` is what an ``Options`` has, name by name."""
    assert list(OptionsDict.__annotations__) == [option.name for option in fields(Options)]


LOW = {"max_tokens": 1, "temperature": 0, "top_p": 1e-9, "seed": 0, "top_k": 0, "min_p": 0, "repetition_penalty": 0.1}
HIGH = {"max_tokens": 2**31 - 1, "temperature": 10.0, "top_p": 1.0, "seed": 2**63 - 1, "top_k": 2**31 - 1, "min_p": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        LOW | {"presence_penalty": -2, "frequency_penalty": -2.0, "logprobs": 0, "strength": 0, "alpha": 0},
        HIGH | {"presence_penalty": 2, "frequency_penalty": 2.0, "logprobs": 20, "strength": 100, "alpha": 10},
        {"repetition_penalty": 10, "logit_bias": {0: -100, 49: 100.0}, "stop": ("x" * 256,) * 16},
        {"rule": "blocks", "num_siblings": 16, "block_tokens": 256, "temperature": 1e-9},
        {"rule": "best_of", "num_siblings": 1, "block_tokens": 1, "temperature": 0},
        {"rule": "args", "expert": "hotels", "schema": {"type": "object"}, "stop": (" ",)},
        {"schema": '{"type": "object"}'},
        {"regex": ""},
    ],
)
def test_options_at_their_bounds_are_kept(options: OptionsDict) -> None:
    """The ends of every range are inside it."""
    made = Options(**options)
    assert {name: getattr(made, name) for name in options} == options


def test_a_bias_has_to_be_in_the_vocabulary() -> None:
    """The last id may be biased, the one after it not."""
    options = Options(logit_bias={49: 1.0})
    options.check_vocabulary(50)
    with pytest.raises(InputError, match="a token id in logit_bias is 49, expected a whole number from 0 to 48"):
        options.check_vocabulary(49)


def test_options_are_a_value_of_their_own() -> None:
    """Changing what was passed, on either side, changes no request; options stay comparable and hashable."""
    mine, stop = {1: 2.0}, ["a"]
    options = Options(logit_bias=mine, stop=stop)
    mine[1] = 3.0
    stop.append("b")
    assert options.logit_bias == {1: 2.0}
    assert options.stop == ("a",)
    with pytest.raises(TypeError):
        options.logit_bias[1] = 3.0
    assert options == Options(logit_bias={1: 2.0}, stop=("a",)) != Options()
    assert len({options, Options(logit_bias={1: 2.0}, stop=("a",)), Options()}) == 2


def test_every_request_has_a_seed_of_its_own() -> None:
    """Requests that name no seed never share one; a seed that is named is kept."""
    seeds = {Request(HELLO).options.seed for _ in range(50)}
    assert len(seeds) == 50
    assert None not in seeds
    assert Request(HELLO, Options(seed=7)).options.seed == 7
