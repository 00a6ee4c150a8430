"""How well wishes are understood: ``python -m lab.wishes.bench --data DIR --json``, some minutes on one core.

Precision is the share of wishes taken that a sentence makes, recall the share of wishes made that is taken; both count
axis and direction. Everything is measured on the half of the sentences that the matcher was made without. Of real
dialogues 250 sentences are drawn, and were read: none of them says how replies should be. What fires on the
whole half was read, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
import typer

from lab.bootstrap import ratio
from lab.harness import Bar, Report, Row
from lab.show import show_figures
from lab.wishes.dialogues import drawn, sentences
from lab.wishes.sentences import Labelled, heard, made_up, part_of
from personalign.cli.output import out, print_row

RESULT = Path(__file__).parents[1] / "results" / "wishes.json"
BARS: Mapping[str, Bar] = MappingProxyType({"wishes.precision": Bar("≥", 0.95)})
# sentences of real dialogues that were read as wishes, by their hash: no text of them may be kept
READ_AS_WISHES: Mapping[str, str] = MappingProxyType(
    {"a117b6c2a45b430e": "reply_length+", "8f4d402f91f78b6d": "empathy+", "cbee1f6515191713": "asking_back+"}
)


def digest(text: str) -> str:
    """The name under which a real sentence is known here."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure(name: str, labelled: Sequence[Labelled]) -> Iterator[Row]:
    """Precision and recall over sentences, with intervals over sentences."""
    taken = [heard(sentence.text) for sentence in labelled]
    right = np.array([len(found & one.wishes) for found, one in zip(taken, labelled, strict=True)], dtype=np.float64)
    num_taken = np.array([len(found) for found in taken], dtype=np.float64)
    num_made = np.array([len(one.wishes) for one in labelled], dtype=np.float64)
    facts = {"sentences": len(labelled), "wishes": int(num_made.sum()), "taken": int(num_taken.sum())}
    yield Row.estimated(f"{name}.precision", ratio(right, num_taken), facts)
    yield Row.estimated(f"{name}.recall", ratio(right, num_made), facts)


def measure_real(data: Path, labelled: Sequence[Labelled]) -> Iterator[Row]:
    """The same with the real sentences that were drawn, and how often anything is taken in all real ones."""
    real = [text for text in sentences(data) if part_of(text) == "held_out"]
    read = [Labelled(text, frozenset(READ_AS_WISHES.get(digest(text), "").split())) for text in drawn(real)]
    yield from measure("wishes", [*labelled, *read])
    fired = [(text, found) for text in real if (found := heard(text))]
    right = sum(bool(found & {*READ_AS_WISHES.get(digest(text), "").split()}) for text, found in fired)
    facts = {"sentences": len(real), "fired": len(fired), "fired_right": right}
    yield Row("wishes.false_alarms_per_million", 1e6 * (len(fired) - right) / len(real), facts=facts)


def main(
    data: Annotated[Path, typer.Option(help="folder that holds corpora/, prism_partial/ and alpaca_eval/")],
    results: Annotated[Path, typer.Option("--out", help="file of results")] = RESULT,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Measure how well wishes in everyday English are understood."""
    report = Report("python -m lab.wishes.bench --data DIR --json", "cpu", ("personalign",), BARS, results)
    labelled = list(made_up("held_out"))
    report.extend(measure("wishes.made_up", labelled))
    report.extend(measure_real(data, labelled))
    print_row(report.to_json(), as_json, show_figures, out, report.to_json())


if __name__ == "__main__":
    typer.run(main)
