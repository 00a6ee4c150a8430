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

from lab import captions, cells
from lab.speed import fleet
from personalign.decode.seq import LIFE, Event
from personalign.learn.axes import named_axes
from personalign.store.erase import STEPS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("measured", "architecture", "axes", "scale")))
SPEED = "personal_over_plain.110m.8"
RESULTS = ROOT / "lab" / "results"
Result = Mapping[str, Any]
# oldest first; the last people are asked as the service asks today
PROSE_RUNS = {"prose": "the first people", "prose_fresh": "fresh people", "prose_ahead": "others, asked as now"}
ARMS_OF_DRIFT = ("unwatched", "watched", "forgetting")
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
    people, prose = _load("people_fresh")["figures"], _joined([_rows(name) for name in PROSE_RUNS])
    rows = [
        ["the profile agrees with the hidden taste, on pairs nobody asked about", cells.summary(people, "agreement")],
        ["people like their own replies better, in standard deviations", cells.summary(people, "utility_personal")],
        ["the same when only the profile's length weight acts", cells.summary(people, "utility_length")],
        ["people like SmolLM2's replies better after ten picks", cells.interval(prose["smollm2.gain.tilt.picks"])],
        ["the same after ten pairs", cells.interval(prose["smollm2.gain.tilt"])],
        ["the same by a stranger's profile after ten picks", cells.interval(prose["smollm2.gain.stranger.picks"])],
        ["speed with a personal reward ÷ without (110 M, 8 at once)", cells.interval(_rows("decode")[SPEED])],
    ]
    return cells.table(["`personalign bench people`, `quality --model smollm2` and `decode`", "measured"], rows)


def _people() -> str:
    results = [_load(name)["figures"] for name in ("people", "people_fresh")]
    rows = [[what, *(cells.summary(figures, key) for figures in results)] for key, what in captions.PEOPLE.items()]
    return cells.table(["median", "seeds looked at before", "fresh seeds"], rows)


def _speeds() -> str:
    rows = _rows("decode")
    table = []
    for name, what in captions.SPEEDS.items():
        shown = [rows.get(f"{name}.{num}") for num in (1, 8, 32)]
        verdicts = dict.fromkeys(cells.verdict(row) for row in shown if row is not None)
        table.append([what, *map(cells.interval, shown), ", ".join(verdicts)])
    return cells.table(["", "1 at once", "8", "32", "bar"], table)


def _figures(name: str, captions: Mapping[str, str], measured: str = "measured") -> str:
    """A result's figures with their bars; those that aren't measured yet are left out."""
    rows = _rows(name)
    named = {what: rows[figure] for figure, what in captions.items() if figure in rows}
    return cells.table(
        ["", measured, "bar"], [[what, cells.interval(row), cells.verdict(row)] for what, row in named.items()]
    )


def _graded() -> str:
    rows = _rows("graded")
    columns = ("share_5", "share_10", "share_10_over_plain")
    table = [
        [what, *(cells.interval(rows.get(f"{arm}.{column}")) for column in columns)]
        for arm, what in captions.GRADED.items()
    ]
    return cells.table(["", "after 5", "after 10", "and more than by sides alone"], table)


def _taps() -> str:
    """What people of one kind of question are known by, and what that costs them."""
    rows, table = _rows("taps"), []
    for kind, what in captions.TAPS.items():
        ten = rows[f"taps.{kind}.10"]
        columns = [cells.interval(rows[f"taps.{kind}.{count}"]) for count in (5, 10, 20)]
        table.append([what, *columns, f"{ten['turned_round']:.0%}", f"{ten['seconds'] / 60:.1f}"])
    table.append(["five picks less ten pairs", "", cells.interval(rows["taps.five_picks_over_ten_pairs"]), "", "", ""])
    header = ["", "after 5", "after 10", "after 20", "taken for the opposite after 10", "minutes of reading for 10"]
    return cells.table(header, table)


def _quality() -> str:
    rows = _rows("quality")
    table = []
    for name, what in captions.METHODS.items():
        gain, wins, over = (rows.get(f"{kind}.{name}") for kind in ("gain", "wins", "gain_over_successor"))
        assert gain is not None, "every method has a gain"
        table.append([what, f"{gain['passes']:.2g}", *map(cells.interval, (gain, over, wins)), f"{gain['kl']:.2f}"])
    return cells.table(["", "passes", "gain", "over the head", "wins", "KL"], table)


def _prose() -> str:
    """What people gain in each run, and what the replies of the newest run are like."""
    runs = [_rows(name) for name in PROSE_RUNS]
    newest, table = _joined(runs), []
    for name, what in captions.PROSE.items():
        if f"smollm2.gain.{name}" in newest:
            gain, fluency = (newest[f"smollm2.{figure}.{name}"] for figure in ("gain", "fluency"))
            gains = [cells.interval(rows.get(f"smollm2.gain.{name}")) for rows in runs]
            shares = (gain["liked_better"], gain["kl"], fluency["value"], gain["repetition"], gain["truncated"])
            table.append([what, f"{gain['passes']:g}", *gains, *(f"{x:.2f}" for x in shares)])
    shapes = ("liked better", "KL", "bits ÷ plain", "repeated", "cut off")
    return cells.table(["", "passes", *(f"gain of {people}" for people in PROSE_RUNS.values()), *shapes], table)


def _differences() -> str:
    """Paired differences; the verdict is by the newest run that measured one."""
    runs = [_rows(name) for name in PROSE_RUNS]
    newest = _joined(runs)
    table = [
        [what, *(cells.interval(rows.get(figure)) for rows in runs), cells.verdict(newest[figure])]
        for figure, what in captions.DIFFERENCES.items()
        if figure in newest
    ]
    return cells.table(["gain more", *PROSE_RUNS.values(), "bar"], table)


def _joined(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the newest row."""
    return {figure: row for rows in runs for figure, row in rows.items()}


def _stick() -> str:
    """What people gain in each window of a conversation, and what the replies are like in the first and the last."""
    rows, table = _rows("stick"), []
    for name, what in captions.TALKED.items():
        if f"smollm2.stick_gain.{name}.1" not in rows:
            continue
        windows = [rows[f"smollm2.stick_gain.{name}.{window}"] for window in (1, 5, 10, 20)]
        shape = (f"{windows[0][key]:.2f} → {windows[-1][key]:.2f}" for key in ("repetition", "copied", "kl"))
        lasting = (rows.get(f"smollm2.stick_20.{name}{end}") for end in (".lost", ""))
        table.append([what, *map(cells.interval, (*windows, *lasting)), *shape])
    spans = ("turns 1–4", "5–8", "9–12", "17–20")
    return cells.table(["", *spans, "lost", "last ÷ first", "repeated", "copied", "KL"], table)


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
    return cells.table(["", "overall", "by axis"], table)


def _heads() -> str:
    rows = _rows("heads")
    names = {"heads.whole": "the whole reply", "heads.to_come": "what is still to come"}
    table = [[what, f"{rows[name]['replies']:,}", f"{rows[name]['value']:.2f}"] for name, what in names.items()]
    return cells.table(["learnt from", "replies", "steering correlation"], table)


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
    return cells.table(["", "tokens", "text so far, r", "head, r"], table)


def _trials() -> str:
    """In how many trials of so many people an arm that wins so often is said to be the better one."""
    found: dict[str, list[Result]] = {}
    for name, row in _rows("trials").items():
        if name.startswith("trials.found."):
            found.setdefault(name.rpartition(".")[0], []).append(row)
    table = [[f"{rows[-1]['wins']:.0%}", *map(cells.interval, rows)] for rows in found.values()]
    sizes = (row["figure"].rpartition(".")[2] for row in next(iter(found.values())))
    return cells.table(["wins", *(f"{size} people" for size in sizes)], table)


def _learning() -> str:
    rows = _rows("learn")
    table = []
    for name, what in captions.LEARNT.items():
        ceiling = f"{rows[name]['ceiling']:.3g}" if "ceiling" in rows[name] else ""
        table.append([what, cells.interval(rows[name]), cells.verdict(rows[name]), ceiling])
    return cells.table(["", "measured", "bar", "at best"], table)


def _gaussian() -> str:
    """The same people with other priors."""
    rows = [_rows("learn")[f"alpaca84.compared_{n}"] for n in (5, 10, 20)]
    return cells.table(
        ["", "5", "10", "20"], [[what, *(f"{row[arm]:.2f}" for row in rows)] for arm, what in captions.PRIORS.items()]
    )


def _calm() -> str:
    """Alarms of people whose taste stays, on both bundled bases."""
    rows, table = _rows("drift"), []
    for name, what in captions.CALM.items():
        alarms = [rows[f"false_alarms.{world}.{name}"] for world in ("tiny", "smollm2")]
        table.append([what, *map(cells.interval, alarms), ", ".join(dict.fromkeys(map(cells.verdict, alarms)))])
    return cells.table(["", "`tiny`", "`smollm2`", "bar"], table)


def _changed() -> str:
    """Of people whose taste changes: how many are noticed, and what their profiles are worth soon after."""
    rows, table = _rows("drift"), []
    for world in ("tiny", "smollm2"):
        for name, what in captions.CHANGED.items():
            within = [rows[f"noticed.{world}.{name}.within_{num}"] for num in (10, 20, 30)]
            worth = [" / ".join(f"{row[arm]:.2f}" for arm in ARMS_OF_DRIFT) for row in within[:2]]
            table.append([f"`{world}`", what, *(f"{row['value']:.2f}" for row in within), *worth])
    return cells.table(["", "taste", "10 answers", "20", "30", "r after 10", "r after 20"], table)


def _life() -> str:
    """The states of a reply, and where each event leads from there."""
    events = get_args(Event)
    return cells.table(
        ["state", *events], [[s, *(moves.get(event, "") for event in events)] for s, moves in LIFE.items()]
    )


def _erasure() -> str:
    """The steps of an erasure, by their docstrings."""
    paragraphs = [(inspect.getdoc(step) or "").replace("\n", " ").split("  ") for step in STEPS]
    return cells.table(
        ["", "holds after it", "killed right then"], [[str(i), *row] for i, row in enumerate(paragraphs, 1)]
    )


def _dialogue() -> str:
    """The axes of the dialogue set."""
    return cells.table(["axis", "about", "less", "more"], [[*asdict(axis).values()] for axis in named_axes("dialogue")])


def _assistant() -> str:
    """The axes of the assistant set, with what they tell on real replies."""
    rows = {row["axis"]: row for row in _load("axes")["rows"]}
    header = ["axis", "about", "less", "more", "replies", "models", "in a prompt", "10 ↔ 10", "siblings", "nearest"]
    table = []
    for axis in named_axes("assistant"):
        row = rows[axis.name]
        numbers = (f"{row[key]:.2f}" for key in REPORT)
        table.append([*asdict(axis).values(), *numbers, f"{row['nearest']} {row['nearest_r']:+.2f}"])
    return cells.table(header, table)


def _fleet() -> str:
    return cells.table(["a million people, 10,000 requests a second", "takes", "because"], fleet.on_paper())


def _simulated() -> str:
    header = ["a person goes to", "commits a second", "cores", "requests that read, a second", "of the cores in use"]
    return cells.table([*header, "ms for a read, median and 99th"], fleet.simulated())


TABLES: Mapping[str, Callable[[], str]] = {
    "readme": _readme,
    "people": _people,
    "speeds": _speeds,
    "costs": lambda: _figures("decode", captions.COSTS),
    "served": lambda: _figures("serve", captions.SERVED),
    "vllm": lambda: _figures("vllm", captions.INSIDE_VLLM),
    "scale": lambda: _figures("scale", captions.SCALE),
    "fleet": _fleet,
    "simulated": _simulated,
    "quality": _quality,
    "prose": _prose,
    "differences": _differences,
    "stick": _stick,
    "knowledge": lambda: _figures("knowledge", captions.KNOWLEDGE),
    "steering": _steering,
    "heads": _heads,
    "siblings": _siblings,
    "alarms": lambda: _figures("trials", captions.ALARMS),
    "trials": _trials,
    "learning": _learning,
    "graded": _graded,
    "taps": _taps,
    "gaussian": _gaussian,
    "wishes": lambda: _figures("wishes", captions.WISHES),
    "calm": _calm,
    "changed": _changed,
    "life": _life,
    "erasure": _erasure,
    "dialogue": _dialogue,
    "assistant": _assistant,
}

if __name__ == "__main__":
    write()
