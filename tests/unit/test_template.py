"""Templates made to harm end in one line, soon and without memory; honest ones give what transformers gives."""

import re
from pathlib import Path

import pytest
from test_tokenizer import CHATML, DATED, DEFAULT_SYSTEM, LISTENING, TRIMMED, folder_with, user

from headway.errors import CheckpointError
from headway.model.template import ChatTemplate
from headway.model.tokenizer import Tokenizer

TOO_MUCH = r"more than|is given the number|no filter named|it calls|it formats|did not end|is undefined"
HOSTILE = {
    # what it may reach
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
    "attr": ("{{ (''|attr('__class__')|attr('__mro__'))[1] }}", "unsafe|undefined"),
    "globals": ("{{ raise_exception.__globals__['sys'] }}", "unsafe|undefined"),
    "format": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "it calls format"),
    "format map": ("{{ '{a.__class__}'.format_map({'a': 1}) }}", "it calls format_map"),
    "namespace": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "may not hold"),
    "namespace by key": ("{% set ns = namespace(**{'__init__': 1}) %}", "may not hold"),
    "self": ("{{ self.__init__.__globals__ }}", "unsafe|undefined"),
    "cycler": ("{{ cycler.__init__.__globals__.os.popen('touch /tmp/x') }}", "undefined"),
    "include": ("{% include '/etc/passwd' %}", "loader"),
    "import": ("{% import '/etc/passwd' as x %}", "loader"),
    "extends": ("{% extends '/etc/passwd' %}", "loader"),
    "changes": ("{% set _ = messages.append(1) %}", "unsafe|not safely"),
    "changes by class": ("{% set _ = dict.update(messages[0], {}) %}", "undefined|no attribute"),
    # how long it may take
    "range": ("{% for i in range(10**9) %}{% endfor %}", TOO_MUCH + "|Range too big"),
    "loops": ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "did not end within"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "power": ("{{ 10 ** (10 ** 10) }}", "bits"),
    "powers": ("{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}", "bits"),
    "nested": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", ""),
    # how much it may make
    "times": ("{{ 'a' * 10**10 }}", TOO_MUCH),
    "times, the other way": ("{{ 10**10 * ['a'] }}", TOO_MUCH),
    "a constant": ("{{ 'a' * 10000000000 }}", TOO_MUCH),
    "doubling by ~": (
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        TOO_MUCH,
    ),
    "doubling by +": (
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        TOO_MUCH,
    ),
    "doubling lists": (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        TOO_MUCH,
    ),
    "nesting lists": (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        TOO_MUCH,
    ),
    "macros": ("{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}{{ " + "f(" * 60 + "'a'" + ")" * 60 + " }}", TOO_MUCH),
    "set blocks": ("{% set a %}x{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60, TOO_MUCH),
    "output": ("{% set s = 'a' * 100000 %}{% for i in range(10000) %}{{ s }}{% endfor %}", TOO_MUCH),
    "many texts": ("".join(f"{{% set a{n} = 'a' * 7999990 %}}" for n in range(100)), TOO_MUCH),
    "center": ("{{ 'a'|center(10**10) }}", TOO_MUCH),
    "ljust": ("{{ 'a'.ljust(10**10) }}", TOO_MUCH),
    "zfill": ("{{ 'a'.zfill(99999999999) }}", TOO_MUCH),
    "format width": ("{{ '{:>9999999999}'.format('a') }}", TOO_MUCH),
    "percent": ("{{ '%99999999999d' % 1 }}", TOO_MUCH),
    "format filter": ("{{ '%99999999999d'|format(1) }}", TOO_MUCH),
    "replace": ("{% set s = 'a' * 100000 %}{{ s|replace('a', s) }}", TOO_MUCH),
    "replace method": ("{% set s = 'a' * 100000 %}{{ s.replace('a', s) }}", TOO_MUCH),
    "join": ("{{ range(9999)|join('a' * 100000) }}", TOO_MUCH),
    "join lazily": ("{{ range(9999)|map('string')|join('a' * 100000) }}", TOO_MUCH),
    "join method": ("{{ ('a' * 100000).join(range(9999)|map('string')) }}", TOO_MUCH),
    "indent": ("{{ ('\n' * 100000)|indent(9999) }}", TOO_MUCH),
    "tojson": ("{{ ([1] * 10000)|tojson(indent=10**9) }}", TOO_MUCH),
    "batch": ("{{ [1]|batch(10**9, 'a')|list }}", TOO_MUCH),
    "bytes": ("{{ (5).to_bytes(10**10, 'big') }}", TOO_MUCH),
    "lipsum": ("{{ lipsum(n=10**9) }}", TOO_MUCH),
    "sum": ("{{ ([[1] * 1000] * 100000)|sum(start=[])|length }}", TOO_MUCH),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_one_clear_line(name: str, tmp_path: Path) -> None:
    source, says = HOSTILE[name]
    tokenizer = Tokenizer.load(folder_with(tmp_path, CHATML))
    tokenizer._chat = ChatTemplate(source)  # loading renders it, too: once is enough
    with pytest.raises(CheckpointError, match="the chat template fails") as caught:
        tokenizer.prompt_ids(user("x"))
    assert re.search(says, str(caught.value), re.IGNORECASE), caught.value
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


HONEST = {
    "chatml": CHATML,
    "trimmed": TRIMMED,
    "system": DEFAULT_SYSTEM,
    "listening": LISTENING,
    "dated": DATED,
    "json": "{{ messages|tojson(indent=4) }}{{ {'a': '<é>'}|tojson }}",
    "split": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\n') }}|{% endfor %}",
    "replace": "{{ messages[0]['content'].replace('x', 'yy')|upper }}{{ messages|length * 3 + 2 ** 3 }}",
    "namespace": (
        "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen + [m.role ~ ':' ~ ns.n ~ ns.n % 2] %}{% endfor %}"
        "{{ ns.seen|join(', ') }}"
    ),
    "generation": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
    "macro": "{% macro f(m) %}<{{ m.role }}>{{ m.content|trim }}{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}",
    "whitespace": "\n{% if 1 %}\n  {{ eos_token }}  \n{% endif %}\n{%- for m in messages -%} {{ loop.index }} {%- endfor -%}\n",
    "filters": "{{ messages|map(attribute='content')|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "tests": "{{ tools is none }}{{ documents is defined }}{{ nothing is defined }}{{ messages is iterable }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }} {% endfor %}{{ messages[0]|items|list }}",
    "indent": "{{ 'a\nb'|indent(2) }}{{ messages[0].content[:2] }}{{ messages[::-1][0].content }}",
    "dict": "{{ dict(a=1, b='c') }}{{ add_generation_prompt }}{{ messages[0].get('nothing', 'else') }}",
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_template_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, HONEST[name]))
    turns = [
        {"role": "system", "content": " Be kind.\n"},
        {"role": "user", "content": "x <b> é \U0001f642 ''"},
        {"role": "assistant", "content": "<think>a</think>\n\n12"},
        {"role": "user", "content": "and 2 + 2?"},
    ]
    more = {"date_string": "26 Jul 2024", "add_generation_prompt": True}
    expected = tokenizer._wrapped.apply_chat_template(turns, tokenize=False, **more)
    assert tokenizer.prompt_text(turns) == expected
    assert expected


def test_a_long_conversation_is_rendered() -> None:
    """Two hundred turns of 20,000 characters: what honest work weighs is far from the bound."""
    turns = [{"role": "user", "content": "y" * 20_000}] * 200
    assert len(ChatTemplate(CHATML).render(messages=turns, add_generation_prompt=True)) > 4_000_000
