"""What is made in README and docs, and not written: ``python -m lab.pages`` renews it from ``lab/results`` and code.

A page marks where a table belongs; a test compares what is committed with what is made.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from personalign.decode.seq import LIFE, Event
from personalign.learn.axes import named_axes
from personalign.store.erase import STEPS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("measured", "architecture", "axes")))
SPEED = "personal_over_plain.110m.8"
RESULTS = ROOT / "lab" / "results"
Result = Mapping[str, Any]

PEOPLE = {
    "agreement": "agreement with the hidden taste on 200 held-out pairs",
    "utility_personal": "gain of the profile as served",
    "utility_length": "gain of its length weight alone",
    "utility_stranger": "gain of a stranger's profile",
    "questions": "questions asked",
    "kl": "KL, nats a token",
}
SPEEDS = {
    "personal_over_plain.110m": "a personal reward ÷ none, 110 M parameters",
    "personal_over_plain.tiny": "a personal reward ÷ none, `tiny`",
    "distinct_over_same.110m": "32 people ÷ 32 requests of one person",
    "attached_over_plain.110m": "head attached at strength 0 ÷ nothing attached",
    "plain_over_generate.110m": "the engine ÷ transformers' `generate` on the same batch",
    "ragged_over_generate.110m": "the same, replies of 32 to 512 tokens, both by oneDNN",
}
COSTS = {
    "args_over_naive.110m.512": "ARGS with 10 candidates and a prompt of 512 ÷ the same with a cache copied ten times",
    "expert_time_over_sum.110m": "time of a step with expert and anti-expert ÷ the sum of the three models' own",
    "head_write_us": "writing a person's weights to their row, µs",
    "commit_to_steer_ms": "from an answer to the first reply it steers, ms",
    "commit_to_steer_other_process_p99_ms": "the same from another process, 99th percentile, ms",
    "bytes_10000_heads": "memory of 10,000 resident people, bytes",
}
METHODS = {
    "greedy.successor.k10.w32": "successor head as served, greedy",
    "sampled.successor.k10.w32": "successor head, β = 32, k = 10",
    "sampled.args_prefixes.k10.w32": "ARGS, reward trained on prefixes, w = 32",
    "sampled.args_replies.k10.w8": "ARGS, reward trained on whole replies, w = 8",
    "sampled.args_prefixes.k10.w1.5": "ARGS as published, w = 1.5, on prefixes",
    "sampled.args_replies.k10.w1.5": "ARGS as published, w = 1.5, on whole replies",
    "sampled.best_of.n2": "best of 2, chosen by the profile",
    "sampled.best_of.n8": "best of 8",
    "sampled.best_of.n11": "best of 11: the compute of ARGS",
    "sampled.in_context": "the profile in words, as a system message",
}
LEARNT = {
    "jester.population": "Jester: everybody's model is right about pairs of jokes far apart, %",
    "jester.gain_10": "the same after 10 chosen questions, points more",
    "jester.gain_20": "after 20",
    "alpaca84.share_5": "84 simulated tastes: share of the way from chance to the taste itself, after 5 answers",
    "alpaca84.share_10": "after 10",
    "alpaca84.share_20": "after 20",
    "gate.ukp": "UKPConvArg1: a person's own model through the gate, points over everybody's",
    "gate.prism": "PRISM",
    "gate.pandalm": "PandaLM",
    "ece_max": "calibration error, the worst of all curves",
    "stop.coverage": 'right about fresh pairs where the questions ended at "80 % sure"',
    "stop.mean_questions": "and questions asked",
    "fit_ms": "one fit of ten answers, ms",
    "acquire_ms": "one choice among 10,000 pairs, ms",
    "bulk_users_per_s": "people fitted a second in bulk, 32 axes",
    "bulk_cov_users_per_s": "the same with covariances",
    "basis_fit_s": "axes from 24,000 answers of 400 people, s",
}

PROSE = {
    "tilt": "the tilt, as served",
    "tilt.half": "at half strength",
    "tilt.double": "at double strength",
    "length": "its length weight alone, as large",
    "stranger": "a stranger's profile",
    "mean": "everybody's mean profile",
    "words": "the profile in words, as a system message",
    "words_and_tilt": "words and tilt",
    "blocks.2.16": "blocks of 16 tokens, the best of 2",
    "blocks.4.16": "blocks of 16 tokens, the best of 4",
    "blocks.8.16": "the best of 8",
    "blocks.4.8": "blocks of 8, the best of 4",
    "blocks.4.32": "blocks of 32, the best of 4",
    "length.blocks.4.16": "blocks of 16 by the length weight alone",
    "stranger.blocks.4.16": "blocks of 16 by a stranger's profile",
    "best_of.4": "best of 4 by the profile",
    "best_of.8": "best of 8",
    "tilt_best_of.4": "best of 4 tilted ones",
    "oracle_tilt": "oracle: the tilt by what the axes can say of the taste",
    "oracle_blocks.4.16": "oracle: blocks of 16, the best of 4",
    "oracle_best_of.8": "oracle: best of 8",
    "oracle_chooser.8": "oracle: the person chooses among 8",
}
DIFFERENCES = {
    "person_over_length.tilt": "the tilt over its length weight alone",
    "person_over_stranger.tilt": "over a stranger's profile",
    "person_over_words.tilt": "over the profile in words",
    "person_over_length.blocks.4.16": "blocks of 16, the best of 4, over the length weight alone",
    "person_over_stranger.blocks.4.16": "over a stranger's profile",
    "person_over_words.blocks.4.16": "over the profile in words",
}

REPORT = ("coverage", "between_models", "within_prompt", "retest_ten", "retest_siblings")


def fill(text: str) -> str:
    """A page with everything between its marks ``<!-- made: NAME -->`` and ``<!-- end -->`` made anew."""
    return re.sub(
        r"(<!-- made: (\w+) -->\n).*?(?=<!-- end -->)", lambda m: f"{m[1]}{TABLES[m[2]]()}\n", text, flags=re.DOTALL
    )


def write() -> None:
    """Renew what is made in every page."""
    for path in PAGES:
        path.write_text(fill(path.read_text("utf-8")), encoding="utf-8")


def _load(name: str) -> Result:
    result: Result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return result


def _rows(name: str) -> dict[str, Any]:
    return {row["figure"]: row for row in _load(name)["rows"]}


def _readme() -> str:
    people = _load("people")["figures"]
    rows = [
        ["the profile agrees with the hidden taste, on pairs nobody asked about", _summary(people, "agreement")],
        ["people like their own replies better, in standard deviations", _summary(people, "utility_personal")],
        ["the same when only the profile's length weight acts", _summary(people, "utility_length")],
        ["speed with a personal reward ÷ without (110 M, 8 at once)", _interval(_rows("decode")[SPEED])],
    ]
    return _table(["`personalign bench people`, `personalign bench decode`", "measured"], rows)


def _people() -> str:
    results = [_load(name)["figures"] for name in ("people", "people_fresh")]
    rows = [[what, *(_summary(figures, key) for figures in results)] for key, what in PEOPLE.items()]
    return _table(["median", "seeds looked at before", "fresh seeds"], rows)


def _confidence() -> str:
    figures = _load("confidence")["figures"]
    rows = [
        [f"{what}, after {num} answers", *(_summary(figures, f"{measure}.{arm}.{num}") for arm in ("rho", "constant"))]
        for num in (3, 10)
        for measure, what in (("utility", "gain"), ("kl", "KL, nats a token"))
    ]
    return _table(["median", "by ρ", "by one constant"], rows)


def _speeds() -> str:
    rows = _rows("decode")
    table = []
    for name, what in SPEEDS.items():
        shown = [rows.get(f"{name}.{num}") for num in (1, 8, 32)]
        verdicts = dict.fromkeys(_verdict(row) for row in shown if row is not None)
        table.append([what, *map(_interval, shown), ", ".join(verdicts)])
    return _table(["", "1 at once", "8", "32", "bar"], table)


def _costs() -> str:
    rows = _rows("decode")
    return _table(["", "measured", "bar"], [[what, _interval(rows[n]), _verdict(rows[n])] for n, what in COSTS.items()])


def _quality() -> str:
    rows = _rows("quality")
    table = []
    for name, what in METHODS.items():
        gain, wins, over = (rows.get(f"{kind}.{name}") for kind in ("gain", "wins", "gain_over_successor"))
        assert gain is not None, "every method has a gain"
        table.append([what, f"{gain['passes']:.2g}", *map(_interval, (gain, over, wins)), f"{gain['kl']:.2f}"])
    return _table(["", "passes", "gain", "over the head", "wins", "KL"], table)


def _prose() -> str:
    rows = _rows("prose")
    table = []
    for name, what in PROSE.items():
        if (gain := rows.get(f"smollm2.gain.{name}")) is not None:
            fluency = rows[f"smollm2.fluency.{name}"]["value"]
            shares = (gain["mean"], gain["liked_better"], gain["kl"], fluency, gain["repetition"], gain["truncated"])
            table.append([what, f"{gain['passes']:g}", _interval(gain), *(f"{x:.2f}" for x in shares)])
    header = ["", "passes", "gain", "mean", "liked better", "KL", "bits ÷ plain", "repeated", "cut off"]
    return _table(header, table)


def _differences() -> str:
    rows = _rows("prose")
    named = {what: rows[f"smollm2.{name}"] for name, what in DIFFERENCES.items() if f"smollm2.{name}" in rows}
    return _table(["", "gain more", "bar"], [[what, _interval(row), _verdict(row)] for what, row in named.items()])


def _steering() -> str:
    """The steering correlations of the bundled heads, axis by axis, the best first."""
    table = []
    for model in ("tiny", "smollm2"):
        if not (RESULTS / f"steering_{model}.json").is_file():
            continue
        figures = {name.removeprefix("steering."): x for name, x in _load(f"steering_{model}")["figures"].items()}
        overall = figures.pop("overall")
        axes = sorted(figures.items(), key=lambda item: -item[1])
        table.append([f"`{model}`", f"{overall:.2f}", ", ".join(f"{name} {x:.2f}" for name, x in axes)])
    return _table(["", "overall", "by axis"], table)


def _heads() -> str:
    rows = _rows("heads")
    names = {"heads.whole": "the whole reply", "heads.to_come": "what is still to come"}
    table = [[what, f"{rows[name]['replies']:,}", f"{rows[name]['value']:.2f}"] for name, what in names.items()]
    return _table(["learnt from", "replies", "steering correlation"], table)


def _siblings() -> str:
    """What tells siblings apart, by how long they are."""
    table = []
    for model in ("tiny", "smollm2"):
        figures = _load(f"siblings_{model}")["figures"]
        for name, value in figures.items():
            _, source, length = name.split(".")
            if source == "so_far":
                head = figures[f"siblings.head.{length}"]
                table.append([f"`{model}`", length, f"{value:.2f}", f"{head:.2f}"])
    return _table(["", "tokens", "text so far, r", "head, r"], table)


def _alpha() -> str:
    bits = [row for name, row in _rows("quality").items() if name.startswith("alpha.bits")]
    return _table(["α", *(f"{row['alpha']:g}" for row in bits)], [["bits", *(f"{row['value']:.3f}" for row in bits)]])


def _learning() -> str:
    rows = _rows("learn")
    table = []
    for name, what in LEARNT.items():
        ceiling = f"{rows[name]['ceiling']:.3g}" if "ceiling" in rows[name] else ""
        table.append([what, _interval(rows[name]), _verdict(rows[name]), ceiling])
    return _table(["", "measured", "bar", "at best"], table)


def _gaussian() -> str:
    rows = [_rows("learn")[f"alpaca84.share_{n}"] for n in (5, 10, 20)]
    arms = {
        "value": "sparse prior, looking ahead (laboratory)",
        "gaussian_prior_d_optimal": "Gaussian prior, D-optimal (served)",
    }
    return _table(["", "5", "10", "20"], [[what, *(f"{row[arm]:.3f}" for row in rows)] for arm, what in arms.items()])


def _life() -> str:
    """The states of a reply, and where each event leads from there."""
    events = get_args(Event)
    return _table(["state", *events], [[s, *(moves.get(event, "") for event in events)] for s, moves in LIFE.items()])


def _erasure() -> str:
    """The steps of an erasure, by their docstrings."""
    paragraphs = [(inspect.getdoc(step) or "").replace("\n", " ").split("  ") for step in STEPS]
    return _table(["", "holds after it", "killed right then"], [[str(i), *row] for i, row in enumerate(paragraphs, 1)])


def _dialogue() -> str:
    """The axes of the dialogue set."""
    return _table(["axis", "about", "less", "more"], [[*asdict(axis).values()] for axis in named_axes("dialogue")])


def _assistant() -> str:
    """The axes of the assistant set, with what they tell on real replies."""
    rows = {row["axis"]: row for row in _load("axes")["rows"]}
    header = ["axis", "about", "less", "more", "replies", "models", "in a prompt", "10 ↔ 10", "siblings", "nearest"]
    table = []
    for axis in named_axes("assistant"):
        row = rows[axis.name]
        numbers = (f"{row[key]:.2f}" for key in REPORT)
        table.append([*asdict(axis).values(), *numbers, f"{row['nearest']} {row['nearest_r']:+.2f}"])
    return _table(header, table)


def _summary(figures: Mapping[str, float], key: str) -> str:
    if key not in figures:
        return ""
    return _interval({"value": figures[key], "low": figures[f"{key}.low"], "high": figures[f"{key}.high"]})


def _interval(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    show = "{:.2f}" if abs(row["value"]) < 10 else "{:,.0f}"
    value, *ends = (show.format(row[name]) for name in ("value", "low", "high") if row.get(name) is not None)
    return f"{value} ({' … '.join(ends)})" if ends and len(set(ends)) > 1 else value


def _verdict(row: Mapping[str, Any]) -> str:
    """The bar, and whether the whole interval is on its right side."""
    if "bar" not in row:
        return ""
    ends = [row.get(name, row["value"]) for name in ("low", "high")]
    reached = [_reaches(row["bar"], end) for end in (*ends, row["value"])]
    return f"{row['bar']} {'reached' if all(reached) else 'open' if any(reached) else 'missed'}"


def _reaches(bar: str, value: float) -> bool:
    sense, _, limit = bar.partition(" ")
    if sense in {"≥", "≤"}:
        return value >= float(limit) if sense == "≥" else value <= float(limit)
    low, high = map(float, bar.split(" … "))
    return low <= value <= high


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "readme": _readme,
    "people": _people,
    "confidence": _confidence,
    "speeds": _speeds,
    "costs": _costs,
    "quality": _quality,
    "prose": _prose,
    "differences": _differences,
    "steering": _steering,
    "heads": _heads,
    "siblings": _siblings,
    "alpha": _alpha,
    "learning": _learning,
    "gaussian": _gaussian,
    "life": _life,
    "erasure": _erasure,
    "dialogue": _dialogue,
    "assistant": _assistant,
}

if __name__ == "__main__":
    write()
