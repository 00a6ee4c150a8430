"""What the command line shows: tables, panels and bars. Texts of users and models are never markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.color import Color, blend_rgb
from rich.color_triplet import ColorTriplet
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from personalign.messages import LETTERS

if TYPE_CHECKING:
    from personalign.demo.people import Met
    from personalign.demo.run import Demo
    from personalign.learn.rank import Ranking
    from personalign.learn.shares import Share
    from personalign.learn.wishes import Understood
    from personalign.serve.run import Opening
    from personalign.shift import ShiftedReply, TokenShift
    from personalign.store import ApiKey
    from personalign.trial import Report
    from personalign.types import Gaussian, Profile, Question, Reply

COLOURS = ("white", "cyan", "magenta", "yellow")
NUM_ANSWERS = 5  # of each person in the demo
SHADES = ("dim", "green", "dim")  # of a question, the preferred reply and the other
BAR = 14  # characters to either side of zero
PALE, RAISED, LOWERED = ColorTriplet(236, 238, 241), ColorTriplet(86, 156, 214), ColorTriplet(230, 145, 56)
UNSHADED = 0.02  # changes of probability below it aren't shown


def show_question(console: Console, question: Question, title: str) -> None:
    """A question with its replies side by side."""
    console.rule(title)
    for message in question.prompt:
        console.print(Text(f"{message['role']}: {message['content']}", style="dim"))
    panels = [Panel(Text(reply), title=letter) for letter, reply in zip(LETTERS, question.replies, strict=False)]
    console.print(Columns(panels, equal=True, expand=True))


def show_answer(console: Console, effect: str) -> None:
    """What an answer changed."""
    console.print(Text(effect, style="green"))


def show_onboarded(console: Console, profile: Profile, reason: str | None, agreed: bool | None) -> None:
    """Why the questions ended, the profile, and the check."""
    console.rule(reason or "stopped; go on whenever you like")
    console.print(Text(profile.explain()))
    if agreed is not None:
        same = "the same reply" if agreed else "another choice, as about a quarter of people do"
        console.print(Text(f"Asked again: {same}."))


def show_understood(console: Console, understood: Understood, profile: Profile) -> None:
    """What a person said, axis by axis, and what of it wasn't understood."""
    for axis in profile.axes:
        for wish in (wish for wish in understood.wishes if wish.axis == axis.name):
            console.print(Text(wish.explain(axis)))
    for text in understood.remainder:
        console.print(Text(f"not understood: {text}", style="dim"))


def show_profile(console: Console, profile: Profile, prior: Gaussian) -> None:
    """A bar for every axis, from less to more, with one standard deviation, in units of the prior's."""
    console.print(Text(profile.explain()))
    table = Table("less", "", "more", title=f"{profile.answers} answers, revision {profile.revision}")
    deviations = (gaussian.covariance.diagonal() ** 0.5 for gaussian in (profile, prior))
    for axis, mean, sd, unit in zip(profile.axes, profile.mean, *deviations, strict=True):
        table.add_row(axis.less, bar(mean / unit, (mean - sd) / unit, (mean + sd) / unit), axis.more)
    console.print(table)


def bar(mean: float, low: float, high: float) -> Text:
    """A mean in its interval as characters on a line from −2 to 2."""
    places = [2 * i / BAR - 2 for i in range(2 * BAR + 1)]
    marks = ["│" if i == BAR else "─" if low <= x <= high else " " for i, x in enumerate(places)]
    marks[min(range(len(places)), key=lambda i: abs(places[i] - mean))] = "●"
    return Text("".join(marks), style="cyan" if low > 0 or high < 0 else "dim")


def show_trial(console: Console, report: Report) -> None:
    """Each arm's share of wins as a bar from none to all, and what is known of every two arms."""
    table = Table("arm", "share of wins", "none … half … all", "at equal length", "choices", "failures")
    for row in report.arms:
        line = bar(*(4 * bound - 2 for bound in (row.share.value, row.share.low, row.share.high)))
        table.add_row(row.arm, _percent(row.share), line, _percent(row.even), str(row.choices), str(row.failures))
    console.print(table)
    console.print(Text(report.explain()))
    counts = f"{report.people} people chose; {report.waiting} pairs without a choice; {report.erased} people erased"
    console.print(Text(counts, style="dim"))


def _percent(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} … {share.high:.0%})"


def show_reply(console: Console, reply: Reply) -> None:
    """A reply and the account of its guidance."""
    console.print(Text(reply.text))
    facts = [_guidance(reply), f"{reply.usage.completion_tokens} tokens, {reply.finish_reason}"]
    if reply.logprobs:
        facts.append(f"log-probability {sum(token.logprob for token in reply.logprobs):.2f}")
    console.print(Text("; ".join(facts), style="dim"), soft_wrap=True)


def _guidance(reply: Reply) -> str:
    if not reply.guided:
        return f"not guided: {reply.reason}"
    guide = f"by revision {reply.revision}" if reply.revision else "by the reward model"
    if reply.reason == "population":
        guide = "by everybody's mean taste"
    if math.isnan(reply.kl):
        return f"guided {guide}, inside vLLM"
    return f"guided {guide}: KL {reply.kl:.3f}, {reply.changed:.0%} changed, reward {reply.gained:+.2f}"


def show_shift(console: Console, tokens: Sequence[TokenShift], replies: Sequence[ShiftedReply]) -> None:
    """A table of the tokens that moved most, and each reply with its tokens shaded."""
    table = Table("token", "count", "mean change", "likeliest changed", title="tokens moved most")
    for token in tokens:
        change = _shaded(f"{token.mean_change:+.3f}", token.mean_change)
        table.add_row(Text(repr(token.token)), str(token.count), change, f"{token.top_changed:.0%}")
    console.print(table)
    for reply in replies:
        console.print(Text(reply.prompt, style="dim"))
        console.print(coloured(reply))
    console.print(legend())


def coloured(reply: ShiftedReply) -> Text:
    """A reply whose tokens are shaded by how much likelier guidance and expert made them; notebooks show it as HTML."""
    *written, last = reply.positions
    shades = [_shaded(position.added, position.change) for position in written]
    return Text.assemble(*shades, _shaded(last.added or last.token, last.change))  # the end has a name, but no text


def legend() -> Text:
    """What the shades of ``coloured`` mean."""
    steps = (_shaded(f" {change:+.1f} ", change) for change in (-0.9, -0.5, -0.1, 0.1, 0.5, 0.9))
    return Text.assemble(("change of a token's probability ", "dim"), *steps)


def _shaded(text: str, change: float) -> Text:
    """Black on blue where it became likelier, on orange where less likely; plain where little changed."""
    if abs(change) < UNSHADED:
        return Text(text)
    full = RAISED if change > 0 else LOWERED
    background = Color.from_triplet(blend_rgb(PALE, full, min(1.0, abs(change))))
    return Text(text, style=Style(color="black", bgcolor=background))


def show_ranking(console: Console, ranking: Ranking) -> None:
    """Replies, the best first, with what is expected of each."""
    table = Table("utility", "best of all", "reply")
    for candidate in ranking.candidates:
        table.add_row(f"{candidate.utility:+.2f}", f"{candidate.probability:.0%}", Text(candidate.text))
    console.print(table)
    if len(ranking.candidates) > 1:
        console.print(f"{ranking.surety:.0%} sure that the first is better than the second")
    if ranking.reason is not None:
        console.print(f"by everybody's mean taste: {ranking.reason}")


def show_report(console: Console, report: dict[str, Any]) -> None:
    """Nested facts as a table."""
    table = Table("what", "found")
    for part, facts in report.items():
        for name, value in facts.items() if isinstance(facts, dict) else [("", facts)]:
            table.add_row(f"{part} {name}".strip(), Text(str(value)))
    console.print(table)


def show_keys(console: Console, keys: Sequence[ApiKey]) -> None:
    """Whose keys there are, and since when each is good or isn't."""
    table = Table("id", "kind", "name", "made", "revoked")
    for key in keys:
        times = (f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in (key.created_at, key.revoked_at))
        table.add_row(key.id, key.kind, Text(key.name), *times)
    console.print(table)


def show_opening(console: Console, opening: Opening) -> None:
    """Where a server is, and how the first people get in."""
    console.print(f"serving at {opening.url}", markup=False, soft_wrap=True)
    if opening.key:
        console.print(f"the operator's first key, which isn't shown again: {opening.key}", markup=False, soft_wrap=True)
    if opening.onboarding:
        console.print(f"your own onboarding, a link for one use: {opening.onboarding}", markup=False, soft_wrap=True)


def show_demo(console: Console, demo: Demo) -> None:
    """Two people's questions and profiles, their replies side by side, and the measurements."""
    for met in demo.pair:
        _show_met(console, met)
    names = [name for name in demo.replies[0] if name != "prompt"]
    console.rule(f"{demo.model}: the same prompts, answered for each")
    for row in demo.replies:
        console.print(Text(row["prompt"], style="bold"))
        table = Table(box=SIMPLE_HEAD, show_edge=False, expand=True)
        for name, colour in zip(names, COLOURS, strict=False):
            table.add_column(name, ratio=1, style=colour)
        table.add_row(*(Text(row[name]) for name in names))
        console.print(table, "")
    console.print("KL, nats per token:", ", ".join(f"{name} {demo.kl[name]:.3f}" for name in names))
    show_people(console, [vars(person) for person in demo.people])
    console.print(
        f"{demo.tokens_per_s:.0f} tokens/s; {demo.ms_to_first_steered_token:.0f} ms from the last answer to the first "
        f"steered token; {demo.seconds:.1f} s in all"
    )


def _show_met(console: Console, met: Met) -> None:
    """A simulated person's hidden taste, some of their answers, a line each, and what is known of them."""
    console.rule(f"{met.name}, who secretly {met.person.describe()}")
    table = Table(box=SIMPLE_HEAD, show_edge=False, expand=True)
    for name, ratio in (("asked", 2), ("preferred", 3), ("over", 3)):
        table.add_column(name, ratio=ratio, no_wrap=True)
    for question, choice in met.answers[:NUM_ANSWERS]:
        replies = (question.a, question.b) if choice == "a" else (question.b, question.a)
        texts = (question.prompt[-1]["content"], *(f"{len(reply.split())} words: {reply}" for reply in replies))
        table.add_row(*(Text(" ".join(text.split()), style=style) for text, style in zip(texts, SHADES, strict=True)))
    console.print(table)
    title = f"what {met.name}'s {met.profile.answers} answers say; {met.stopped_because}"
    console.print(Panel(Text(met.profile.explain()), title=title))


def show_people(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """How well simulated people's profiles agree with their hidden tastes, and how they like their replies."""
    table = Table("person", "questions", "agreement", "utility of base", "of the personal replies", "KL")
    for row in rows:
        utilities = (f"{row[name]:+.2f}" for name in ("utility_base", "utility_personal"))
        table.add_row(str(row["id"]), str(row["questions"]), f"{row['agreement']:.2f}", *utilities, f"{row['kl']:.3f}")
    console.print(table)
