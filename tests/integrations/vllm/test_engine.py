"""vLLM's own engine with our processor, held against our engine: token for token, on the bundled model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from personalign import Personalign
from personalign.decode import render
from personalign.integrations.vllm.people import STRENGTH, USER
from personalign.integrations.vllm.server import Offline, Place
from personalign.settings import set_environment

pytest.importorskip("vllm", reason="vLLM isn't installed: make test-vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

CHATS = [
    [{"role": "user", "content": text}]
    for text in ("Can you help me find a place to eat?", "I need a hotel in Paris", "What should I do this weekend?")
]
TOKENS = 32
PEOPLE = ("ada", "ben")
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place("tiny", f"sqlite:///{tmp_path_factory.mktemp('vllm') / 'p.db'}")


@pytest.fixture(scope="module")
def p(place: Place) -> Iterator[Personalign]:
    """Our engine, with two people of opposite tastes."""
    with Personalign.open(place.store, place.model) as p:
        p.set("ada", length=-1)
        p.set("ben", length=1)
        yield p


@pytest.fixture(scope="module")
def engine(place: Place, p: Personalign) -> Offline:
    """One thread, as our own engine has in tests, and four requests at once; prefixes are kept."""
    set_environment({"VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    small = {"max_model_len": 512, "max_num_seqs": 4, "kv_cache_memory_bytes": 1 << 28}
    return Offline(
        place, dtype="float32", enforce_eager=True, enable_prefix_caching=True, disable_log_stats=False, **small
    )


def ours(p: Personalign, user: str, chats: Sequence[Any] = CHATS, **options: Any) -> list[list[int]]:
    replies = p.chat_many([user] * len(chats), chats, max_tokens=TOKENS, **options)
    return [[*reply.ids, *([] if reply.end is None else [reply.end])] for reply in replies]


def written(
    engine: Offline, p: Personalign, people: Sequence[dict[str, Any] | None], chats: Sequence[Any] = CHATS, **more: Any
) -> list[list[list[int]]]:
    """Tokens by person and conversation, all in one batch."""
    prompts = [render(p.models.base.tokenizer, chat) for chat in chats]
    each = [one for one in people for _ in prompts]
    flat = engine.write(prompts * len(people), each, max_tokens=TOKENS, **more)
    return [flat[start : start + len(chats)] for start in range(0, len(flat), len(chats))]


def test_tokens_are_our_engines(engine: Offline, p: Personalign) -> None:
    """A stranger's and two people's, nine requests in a batch of four; the three differ (the control)."""
    plain, ada, ben = written(engine, p, [None, {USER: "ada"}, {USER: "ben"}])
    assert plain == ours(p, "nobody")
    assert [ada, ben] == [ours(p, user) for user in PEOPLE]
    assert plain != ada != ben != plain


def test_strength_0_is_plain_and_strength_acts(engine: Offline, p: Personalign) -> None:
    """Bit by bit the model's own at 0, and at another strength what our engine writes."""
    none, half, plain = written(engine, p, [{USER: "ada", STRENGTH: 0}, {USER: "ada", STRENGTH: 0.5}, None])
    assert none == plain
    assert half == ours(p, "ada", strength=0.5)


def test_penalties_act_before_the_reward(engine: Offline, p: Personalign) -> None:
    """Though vLLM applies them later; they change the replies (the control)."""
    assert written(engine, p, [{USER: "ada"}], **PENALTIES) == [ours(p, "ada", **PENALTIES)]
    assert ours(p, "ada", **PENALTIES) != ours(p, "ada")


def test_a_kept_prefix_is_nobodys(engine: Offline, p: Personalign) -> None:
    """One long prompt for one person after the other: what the cache holds comes before any weight acts."""
    long = [[{"role": "user", "content": "We talked about hotels. " * 20 + text}] for text in ("A room?", "A view?")]
    for user in (*PEOPLE, "ada"):
        (replies,) = written(engine, p, [{USER: user}], long)
        assert replies == ours(p, user, long)
    counts = {metric.name: getattr(metric, "value", None) for metric in engine.llm.get_metrics()}
    assert counts.get("vllm:prefix_cache_hits", 0) > 0


def test_a_new_profile_is_used_by_the_next_request(engine: Offline, p: Personalign) -> None:
    """At once, in both directions."""
    for position in (1.0, -1.0):
        p.set("cleo", length=position)
        assert written(engine, p, [{USER: "cleo"}]) == [ours(p, "cleo")]
    p.set("cleo", length=1.0)
    longer = ours(p, "cleo")
    p.set("cleo", length=-1.0)
    assert ours(p, "cleo") != longer


def test_many_people_leave_nothing_to_each_other(engine: Offline, p: Personalign) -> None:
    """Sixty people through four slots, and strangers after them, each as our engine writes."""
    users = [f"user {number}" for number in range(60)]
    for number, user in enumerate(users):
        p.set(user, length=number / 30 - 1)
    mine, theirs = CHATS[:1], [None if number % 5 == 0 else {USER: user} for number, user in enumerate(users)]
    tokens = written(engine, p, theirs, mine)
    for one, user, reply in zip(theirs, users, tokens, strict=True):
        assert reply == ours(p, "nobody" if one is None else user, mine)


def test_the_unknown_and_the_erased_are_refused(engine: Offline, p: Personalign) -> None:
    """At once; the others are served (the control), and within a second no number of the erased stays."""
    prompt = render(p.models.base.tokenizer, CHATS[0])
    assert engine.refuses(prompt, {USER: "nobody"})
    assert engine.refuses(prompt, {USER: "ada", STRENGTH: "much"})
    p.set("dora", length=-1)
    assert not engine.refuses(prompt, {USER: "dora"})
    batch = processor(engine).batch
    before = batch.num_people
    p.forget("dora")
    assert engine.refuses(prompt, {USER: "dora"})
    until = time.monotonic() + 1
    while batch.num_people == before and time.monotonic() < until:
        time.sleep(0.02)
    assert batch.num_people == before - 1
    assert not engine.refuses(prompt, {USER: "ada"})


def processor(engine: Offline) -> Any:
    """Ours, in the midst of vLLM."""
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    return runner.input_batch.logitsprocs.non_argmax_invariant[-1]
