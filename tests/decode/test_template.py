"""Chat templates: rendered as transformers renders them, and never for ever."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from personalign.bundled import TINY
from personalign.decode import template as module
from personalign.decode.template import ends_turns, rendered
from personalign.errors import MessageError, ModelError
from personalign.types import Message
from tests.decode.tiny_models import TEMPLATE, tokenizer

TURNS: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " <b>A café</b>\n in 'Paris' \"now\" "},
    {"role": "assistant", "content": "<think>1</think>Yes & no"},
    {"role": "user", "content": "日本 🙂"},
]
FEATURES = [
    TEMPLATE,
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ bos_token }}{{ eos_token }}",
    """{%- for m in messages %}
    {%- if loop.first %}[{{ loop.length }}{% endif %}{{ m.role | upper | trim }}
    {{ m['content'].split('</think>')[-1].strip() }}
    {%- if not loop.last %}, {% else %}]{% endif %}{% endfor %}""",
    """{% set ns = namespace(last='', n=0) %}
    {% for m in messages[::-1] %}
        {% set ns.last = ns.last ~ m.content %}{% set ns.n = ns.n + 1 %}
        {% if ns.n == 2 %}{% break %}{% endif %}
    {% endfor %}{{ ns.last }}{{ ns.n }}""",
    """{% macro turn(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}
    {% for m in messages %}
        {% call turn(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endcall %}
    {% endfor %}""",
    """{% set text %}
        {% for m in messages if m.role != 'system' %}{{ m.content | replace('a', 'b') }}{% endfor %}
    {% endset %}{% filter upper | trim %}{{ text }}{% endfilter %}{{ '%s-%05d' % (text | length, 7) }}""",
    """{% for m in messages recursive %}
        {{ m.role if m.role else '' }}{% if loop.depth < 2 %}{{ loop(messages[:1]) }}{% endif %}
    {% endfor %}{{ messages | map(attribute='role') | join('/') }}
    {{ messages | selectattr('role', 'eq', 'user') | list | length }}{{ 'x' * 3 + '{:>4}'.format('y') }}
    {% if tools is none and not documents %}!{% endif %}""",
]


@pytest.mark.parametrize("template", FEATURES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_is_rendered_as_transformers_does(template: str, add_generation_prompt: bool) -> None:
    """Character by character, for all that chat templates use of Jinja."""
    words = tokenizer(template=template)
    expected = words.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert rendered(words, TURNS, add_generation_prompt=add_generation_prompt) == expected
    assert len(str(expected)) > 10


def test_the_bundled_template_is_rendered_as_transformers_does() -> None:
    """The model that everybody begins with."""
    words = AutoTokenizer.from_pretrained(TINY / "base")
    assert rendered(words, TURNS) == words.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}"
HOSTILE = [
    NESTED + "{% endfor %}{% endfor %}",
    NESTED + "x{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for x in [[1, 1]] recursive %}{{ loop([[x, x], [x, x]]) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'x' * 100000000 }}",
    "{{ 100000000 * 'x' }}",
    "{{ [1] * 99999 * 99999 }}",
    "{{ 10 ** 99999 ** 99999 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('', ns.x) %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}{{ 'y' * 9999 }}{% endfor %}{% endset %}",
    "{% for i in range(99999) %}" + "y" * 10_000 + "{% endfor %}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x'.zfill(1000000000) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x' | center(width=1000000000) }}",
    "{% filter center(1000000000) %}x{% endfilter %}",
    "{{ ('\n' * 9999) | indent(99999, true, true) }}",
    "{{ range(9999) | list | tojson(indent=99999) }}",
    "{{ ('x' * 9999).replace('x', 'y' * 9999) }}",
    "{{ ('x' * 9999) | replace('x', 'y' * 9999) }}",
    "{{ range(9999) | map('string') | join('y' * 9999) }}",
    "{{ ('x' * 9999).translate({120: 'y' * 9999}) }}",
    "{{ 1 / 0 }}",
    "{{ 1 + 'x' }}",
    "{{ ''.join(5) }}",
    r"{{ '\ud83d' }}",
    r"{{ '\ud83d' }}{{ '\ude00' }}",
    "{% for %}",
    "{{" * 5000,
    "{% if true %}" * 5000,
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_template_that_fails_or_never_ends_is_the_models_error(template: str) -> None:
    """Loops, recursion, doubling, padding: all of it comes back, as an error that names the template."""
    with pytest.raises(ModelError, match="the model's chat template"):
        rendered(tokenizer(template=template), TURNS[:1])


def test_without_the_budget_it_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a loop within the budget renders, and the same loop is refused under a smaller one."""
    words = tokenizer(template="{% for i in range(1000) %}x{% endfor %}")
    assert rendered(words, TURNS) == "x" * 1000
    monkeypatch.setattr(module, "STEPS", 900)
    monkeypatch.setattr(module, "STEPS_PER_MESSAGE", 0)
    with pytest.raises(ModelError, match="doesn't come to an end"):
        rendered(words, TURNS)


def test_a_long_conversation_stays_within_the_budget() -> None:
    """A thousand messages, and a message of a megabyte, by a template that does much with each."""
    words = tokenizer(template=FEATURES[2] + "{# " + "x" * 10_000 + " #}")
    assert rendered(words, TURNS[:2] * 500).count("SYSTEM") == 500
    assert len(rendered(words, [{"role": "user", "content": "word " * 200_000}])) > 999_990


def test_messages_that_a_template_refuses_are_the_callers_error() -> None:
    """What it says comes out as it is."""
    with pytest.raises(MessageError, match="roles must alternate"):
        rendered(tokenizer(template="{{ raise_exception('roles must alternate') }}"), TURNS)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (TEMPLATE, True),
        (TEMPLATE.replace("eos_token }}", "eos_token + '\n' }}"), True),
        (TEMPLATE.replace("+ eos_token", ""), False),
        ("{{ raise_exception('no') }}", False),
        (None, False),
    ],
)
def test_whether_a_template_ends_turns_with_the_end_token_is_seen_by_rendering(
    template: str | None, ends: bool
) -> None:
    """White space behind it doesn't matter."""
    words = tokenizer()
    words.chat_template = template
    assert ends_turns(words) is ends


def test_the_date_is_the_local_one() -> None:
    """As transformers gives it to templates that ask."""
    words = tokenizer(template="{{ strftime_now('%Y-%m-%d') }}")
    assert rendered(words, TURNS) == words.apply_chat_template(TURNS, tokenize=False)
