"""Axes for an assistant's prose: how long and how laid out it is, how it speaks, and what it says beside the answer.

A measure counts different things up to a cap, or takes the share of sentences that have something. So saying it again
gains nothing. ``prose.py`` reads a reply once for all axes, ``axes.py`` says how the set is chosen, and
``python -m lab.axes`` measures each axis on the replies of 24 models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from personalign.learn.prose import FUNCTION, AxisSet, Prose, Sentence, num_words, read, saturate, word_set
from personalign.words import Axis

AXES: tuple[Axis, ...] = (
    Axis("reply_length", "how long the reply is", "short replies", "long, thorough replies"),
    Axis("bullets", "bulleted lists", "running text without bullets", "bulleted lists"),
    Axis("steps", "numbered lists and steps", "text without numbered steps", "numbered steps"),
    Axis("headings", "headings over parts of the reply", "replies without headings", "parts with headings"),
    Axis("emphasis", "bold words and tables", "plain letters without tables", "bold words and tables"),
    Axis("paragraphs", "breaks between paragraphs", "one block of text", "many short paragraphs"),
    Axis("code", "code and commands", "replies without code", "code and commands written out"),
    Axis("emoji", "emoji and symbols", "replies without emoji", "emoji"),
    Axis(
        "excitement",
        "exclamation marks, praise and words like “amazing”",
        "a calm, sober tone",
        "excitement and praise",
    ),
    Axis("empathy", "warmth and care for the reader's feelings", "a neutral, factual tone", "warmth and empathy"),
    Axis("formality", "formal or casual wording", "casual, conversational wording", "formal wording"),
    Axis("learned_words", "plain or learned words", "short, plain words", "long, learned words"),
    Axis("sentence_words", "how long the sentences are", "short, simple sentences", "long, complex sentences"),
    Axis("tentativeness", "words such as “may” and “perhaps”", "definite statements", "careful, hedged statements"),
    Axis("warnings", "warnings and disclaimers", "replies without warnings", "warnings, limits and advice to check"),
    Axis(
        "preamble",
        "an opening such as “Sure! Here is…”",
        "coming straight to the point",
        "an opening such as “Sure! Here is…”",
    ),
    Axis(
        "restating",
        "the request taken up in the first sentence",
        "no repetition of the request",
        "a first sentence that restates the request",
    ),
    Axis(
        "closing_offer",
        "a last line such as “Let me know if…”",
        "an end without offers",
        "an offer of further help at the end",
    ),
    Axis("asking_back", "questions to the reader", "statements without questions", "questions back"),
    Axis("addressing", "sentences that speak to “you”", "impersonal sentences", "sentences that speak to “you”"),
    Axis("saying_i", "sentences in which the assistant says “I”", "replies without “I”", "an assistant that says “I”"),
    Axis("examples", "examples and comparisons", "general statements", "examples and comparisons"),
    Axis("numbers", "numbers, dates and amounts", "replies without numbers", "exact numbers, dates and amounts"),
    Axis(
        "proper_names", "names of people, places and things", "replies without names", "people, places and things named"
    ),
    Axis("asides", "brackets and dashes", "straight sentences without asides", "asides in brackets and dashes"),
)


@dataclass(frozen=True)
class Lexicon:
    """Words and phrases that are counted once each."""

    words: frozenset[str]
    phrases: tuple[str, ...]

    def count(self, prose: Prose) -> int:
        """How many different ones a reply has."""
        return len(self.words & prose.vocabulary) + sum(phrase in prose.text for phrase in self.phrases)

    def is_in(self, words: Sequence[str]) -> bool:
        """Whether some words hold one."""
        text = f" {' '.join(words)} "
        return not self.words.isdisjoint(words) or any(phrase in text for phrase in self.phrases)


def _lexicon(text: str) -> Lexicon:
    """Words and phrases, written with commas between them."""
    entries = text.split(", ")
    words = frozenset(entry for entry in entries if " " not in entry)
    return Lexicon(words, tuple(f" {entry} " for entry in entries if " " in entry))


EAGER = _lexicon(
    "amazing, awesome, wonderful, fantastic, excellent, incredible, incredibly, exciting, excited, thrilled, "
    "thrilling, love, loved, perfect, perfectly, great, best, brilliant, delicious, stunning, gorgeous, magical, "
    "spectacular, unforgettable, vibrant, delightful, fun, enjoy, absolutely, truly, wow, yay, hooray, super, "
    "beautiful, adventure"
)
WARM = _lexicon(
    "sorry, understand, understandable, feel, feeling, feelings, care, caring, glad, happy, hope, thank, thanks, "
    "please, welcome, kindness, gentle, gently, comfort, comforting, compassion, compassionate, empathy, love, "
    "loved, dear, friend, friends, warm, warmly, appreciate, grateful, patience, proud, "
    "encourage, supportive, tough, overwhelming, hug, wish, hear that, you're not alone, be there for, take "
    "your time, it's normal, it's natural, it's okay, it can be hard, it can be difficult, don't worry"
)
FORMAL = _lexicon(
    "do not, does not, did not, cannot, is not, are not, will not, would not, could not, should not, has not, "
    "have not, it is, that is, there is, they are, we are, i am, i have, i will, you will, here is, let us, "
    "furthermore, moreover, thus, hence, therefore, consequently, accordingly, nevertheless, nonetheless, "
    "whereas, regarding, upon"
)
CASUAL = _lexicon(
    "hey, hi, yeah, yep, nope, ok, okay, gonna, wanna, gotta, kinda, sorta, cool, awesome, guys, folks, stuff, pretty, "
    "super, totally, lots, tons, bunch, grab, yummy, kids, mom, dad, buddy, wow, oh, it's, that's, there's, here's, "
    "what's, let's, a lot, a little, kind of, sort of, no problem"
)
HEDGES = _lexicon(
    "may, might, could, perhaps, maybe, possibly, probably, potentially, likely, unlikely, seems, seem, seemed, "
    "appear, appears, suggests, suggest, generally, typically, usually, often, sometimes, somewhat, approximately, "
    "roughly, relatively, tend, tends, presumably, arguably, depends, depending, uncertain, unclear, can be, "
    " in some cases, i think, i believe, it is possible, not sure, as far as, to some extent"
)
CAUTIONS = _lexicon(
    "caution, careful, carefully, beware, warning, avoid, risk, risks, dangerous, danger, harmful, unsafe, consult, "
    "disclaimer, sorry, unfortunately, cannot, unable, illegal, unethical, inappropriate, a professional, "
    "healthcare professional, medical advice, a doctor, your doctor, emergency, "
    "responsible, responsibly, safety, important to, it's important, note that, keep in mind, "
    "please note, as an ai, language model, i can't, i don't have, not recommended, make sure, be aware, be sure to, "
    "not a substitute, seek help, double check, my knowledge, real time, up to date, not possible, may not be"
)
OPENINGS = word_set(
    "sure certainly absolutely okay ok alright yes yeah great thanks thank hello hi hey understood gladly definitely "
    "well excellent interesting"
)
LEAD_INS = _lexicon(
    "here is, here are, here's, here you go, of course, no problem, below is, below are, following is, i'd be happy, "
    "i would be happy, i'll be happy, happy to help, glad to, as an ai, let's, let me, i can help, i understand, i'm "
    "sorry, i apologize, there are several, there are many, there are a, you request_words, your question, your request"
)
OFFERS = _lexicon(
    "let me know, feel free, hope this helps, hope that helps, hope it helps, any other questions, any questions, "
    "further questions, more questions, need help, further assistance, happy to help, here to help, anything else, "
    "would you like me, do you want me, if you need, if you'd like, if you would like, if you have, can i help, don't "
    "hesitate, please provide, more information, more details, please share, good luck, enjoy your, best of luck"
)
PRAISE = _lexicon(
    "congratulations, congrats, bravo, kudos, impressive, great question, good question, excellent question, "
    "interesting question, important question, great idea, good idea, wonderful idea, great choice, good choice, "
    "excellent choice, great job, good job, well done, great way, good thinking, you're right, you are right, you're "
    "absolutely, you are absolutely, proud of you, your creativity, your interest, that's great, that's a great, "
    "that's wonderful, that's awesome, what a great, sounds great, sounds like a great, sounds delicious, keep up, "
    "good for you, your hard work, your dedication, your passion, it's great that, it's wonderful that"
)
SECOND = _lexicon("you, your, yours, yourself, you're, you'll, you've, you'd")
FIRST = _lexicon("i, i'm, i've, i'll, i'd, me, my, mine, myself")
EXAMPLES = _lexicon(
    "example, examples, e.g, instance, imagine, suppose, consider, analogy, similar, similarly, likewise, "
    "including, include, includes, namely, compare, compared, think of, such as, scenario"
)
CONTRACTED = ("n't", "'m", "'re", "'ve", "'ll", "'d")
PLAIN_WORDS = 1  # assumed beside the reply's own, so that one word says little
SHORT, LONG = 4, 12  # letters


def _share(prose: Prose, has: Callable[[Sentence], bool]) -> float:
    """Of the different sentences; two more are assumed without it, so that one sentence says little."""
    return sum(map(has, prose.sentences)) / (len(prose.sentences) + 2)


def _lexical_share(lexicon: Lexicon) -> Callable[[Prose], float]:
    return lambda prose: _share(prose, lambda sentence: lexicon.is_in(sentence.words))


def _counted(lexicon: Lexicon, cap: int) -> Callable[[Prose], float]:
    return lambda prose: saturate(lexicon.count(prose), cap)


def _lines(kind: str, cap: int) -> Callable[[Prose], float]:
    return lambda prose: saturate(len(prose.markers[kind]), cap)


def _ending_in(prose: Prose, marks: str) -> int:
    return sum(sentence.mark in marks for sentence in prose.sentences)


def _excitement(prose: Prose) -> float:
    """Exclamations; a word counts half, as it tells less of who writes."""
    return saturate(_ending_in(prose, "!！") + (EAGER.count(prose) + PRAISE.count(prose)) / 2, 6)


def _formality(prose: Prose) -> float:
    """Verbs written in full and learned connectives, less contractions and slang."""
    contractions = sum(word.endswith(CONTRACTED) for word in prose.vocabulary)
    return saturate(FORMAL.count(prose), 5) - saturate(CASUAL.count(prose) + contractions, 5)


def _learnedness(prose: Prose) -> float:
    """Letters beyond the fourth, in the mean over different content words."""
    lengths = [min(len(word), LONG) for word in prose.vocabulary - FUNCTION if word.isalpha()]
    return sum(max(length - SHORT, 0) for length in lengths) / (len(lengths) + PLAIN_WORDS)


def _sentence_words(prose: Prose) -> float:
    return saturate(num_words(prose.words) / max(len(prose.sentences), 1), 40)


def _preamble(prose: Prose) -> float:
    if not prose.sentences:
        return 0.0
    start = [word for sentence in prose.sentences[:2] for word in sentence.words][:16]
    return float(start[0] in OPENINGS) + float(LEAD_INS.is_in(start))


def _restating(prose: Prose) -> float:
    first = prose.sentences[0].words if prose.sentences else ()
    return saturate(len(prose.request_words.intersection(first)), 6)


def _closing_offer(prose: Prose) -> float:
    end = " ".join(word for sentence in prose.sentences[-2:] for word in sentence.words)
    return saturate(sum(phrase in f" {end} " for phrase in OFFERS.phrases), 2)


def _proper_names(prose: Prose) -> float:
    """Capitalised words that don't begin a sentence and aren't “I”."""
    capitals = {word for s in prose.sentences for word in s.tokens[1:] if word[0].isupper()}
    return saturate(sum(word.lower() not in FIRST.words for word in capitals), 12)


MEASURES: Mapping[str, Callable[[Prose], float]] = MappingProxyType(
    {
        "reply_length": lambda prose: saturate(num_words(prose.words), 400),
        "bullets": _lines("bullet", 10),
        "steps": _lines("step", 10),
        "headings": _lines("heading", 6),
        "emphasis": lambda prose: saturate(len(prose.emphasis) + len(prose.markers["row"]), 10),
        "paragraphs": lambda prose: saturate(len(prose.blocks), 12),
        "code": lambda prose: saturate(len(prose.code), 10),
        "emoji": lambda prose: saturate(len(prose.emoji), 4),
        "excitement": _excitement,
        "empathy": _counted(WARM, 6),
        "formality": _formality,
        "learned_words": _learnedness,
        "sentence_words": _sentence_words,
        "tentativeness": _lexical_share(HEDGES),
        "warnings": _counted(CAUTIONS, 6),
        "preamble": _preamble,
        "restating": _restating,
        "closing_offer": _closing_offer,
        "asking_back": lambda prose: saturate(_ending_in(prose, "?？"), 3),
        "addressing": _lexical_share(SECOND),
        "saying_i": _lexical_share(FIRST),
        "examples": _counted(EXAMPLES, 5),
        "numbers": lambda prose: saturate(sum(word[0].isdigit() for word in prose.vocabulary), 8),
        "proper_names": _proper_names,
        "asides": lambda prose: saturate(len(prose.asides), 5),
    }
)

ASSISTANT = AxisSet(AXES, read, MEASURES)
