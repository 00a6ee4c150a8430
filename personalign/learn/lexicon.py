"""What an assistant says beside the answer, as lists of words and phrases; ``assistant.py`` measures with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from personalign.learn.prose import Prose, word_set


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
