"""Settings that mean nothing are refused, by name, with what was expected; those that mean something are kept."""

import math

import pytest

from personalign.decode.request import check_constraint, check_sampling
from personalign.errors import InputError
from personalign.types import Sampling


def _with(name: str, value: object) -> Sampling:
    """Settings as a caller without type checks could pass them."""
    sampling = Sampling()
    object.__setattr__(sampling, name, value)
    return sampling


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("temperature", math.nan, "temperature is nan, expected a number from 0 to 10"),
        ("temperature", "warm", "temperature is 'warm'"),
        ("top_p", 0, "pass temperature=0"),
        ("min_p", 1.1, "min_p is 1.1, expected a number from 0 to 1"),
        ("min_p", math.nan, "min_p is nan"),
        ("top_k", -1, "top_k is -1, expected a whole number from 0"),
        ("top_k", 2.5, "top_k is 2.5"),
        ("top_k", True, "top_k is True"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0.0, expected a number from 0.1 to 10"),
        ("presence_penalty", 2.1, "presence_penalty is 2.1, expected a number from -2 to 2"),
        ("frequency_penalty", -math.inf, "frequency_penalty is -inf"),
        ("logprobs", 21, "logprobs is 21, expected a whole number from 0 to 20"),
        ("logprobs", -1, "logprobs is -1"),
        ("logit_bias", [(1, 2.0)], "expected a mapping from token ids"),
        ("logit_bias", {50: 1.0}, "token id in logit_bias is 50, expected a whole number from 0 to 49"),
        ("logit_bias", {"7": 1.0}, "token id in logit_bias is '7'"),
        ("logit_bias", {7: math.nan}, r"logit_bias\[7\] is nan, expected a number from -100 to 100"),
        ("logit_bias", {7: 101}, r"logit_bias\[7\] is 101"),
        ("stop", "###", "stop is '###', expected a tuple of strings"),
        ("stop", (3,), r"stop is \(3,\)"),
        ("stop", ("a", ""), "stop holds an empty string"),
        ("stop", ("a",) * 17, "stop holds 17 strings, expected at most 16"),
        ("stop", ("a", "b" * 257), "a string of 257 characters, expected at most 256; its beginning will do"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, value, complaint: str) -> None:
    """Wrong types, NaN, and what is out of range or out of the vocabulary."""
    with pytest.raises(InputError, match=complaint):
        check_sampling(_with(name, value), 50)


def test_settings_at_their_bounds_are_kept() -> None:
    """The ends of every range are inside it; without a vocabulary every id may be biased."""
    for sampling in (
        Sampling(),
        Sampling(1, 10.0, 1e-9, 2**63 - 1, 2**31 - 1, 1.0, 0.1, -2, 2, {0: -100, 49: 100.0}, ("x" * 256,) * 16, 20),
        Sampling(min_p=0, repetition_penalty=10, presence_penalty=2.0, frequency_penalty=-2.0, stop=(" ",)),
    ):
        check_sampling(sampling, 50)
    check_sampling(Sampling(logit_bias={50: 1.0}))


def test_a_bias_is_the_settings_own() -> None:
    """Changing the mapping afterwards, on either side, changes no request; settings stay comparable and hashable."""
    mine = {1: 2.0}
    sampling = Sampling(logit_bias=mine)
    mine[1] = 3.0
    assert sampling.logit_bias == {1: 2.0}
    with pytest.raises(TypeError):
        sampling.logit_bias[1] = 3.0
    assert sampling == Sampling(logit_bias={1: 2.0}) != Sampling()
    assert len({sampling, Sampling(logit_bias={1: 2.0}), Sampling()}) == 2


@pytest.mark.parametrize(
    ("schema", "regex", "complaint"),
    [
        ({"type": "object"}, "a", "both given, expected one of them"),
        (3, None, "schema is 3, expected a mapping"),
        (None, 3, "regex is 3, expected a pattern"),
    ],
)
def test_a_reply_has_one_constraint(schema, regex, complaint: str) -> None:
    """A schema and a regex at once, or something else, are refused; one of them, or none, is kept."""
    with pytest.raises(InputError, match=complaint):
        check_constraint(schema, regex)
    check_constraint(None, None)
    check_constraint({"type": "object"}, None)
    check_constraint('{"type": "object"}', None)
    check_constraint(None, "")
