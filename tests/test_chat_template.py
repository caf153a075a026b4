"""Strangers' templates: rendered as transformers renders them, and stopped when they misbehave."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgellama.chat_template import render
from edgellama.errors import EdgellamaError, InvalidRequest, ModelFormatError

HELLO = [{"role": "user", "content": "Hello"}]
MORNING = datetime(2024, 7, 26, 9, 30)


def render_one(source: str, messages: Any = HELLO) -> str | EdgellamaError:
    conversation = {"messages": messages}
    return render(source, [conversation], now=MORNING, bos_token="<s>", eos_token="</s>")[0]


CHATML = """{{ bos_token }}
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
Be helpful.<|im_end|>
    {% endif %}
<|im_start|>{{ message.role }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""


def test_a_template_is_rendered_to_where_the_assistant_speaks() -> None:
    text = render_one(CHATML, [*HELLO, {"role": "assistant", "content": " Hi\n"}])
    assert text == (
        "<s>\n<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ {'é': '<'} | tojson }}", '{"é": "<"}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hello"),
        ("{{ tools is none }}{{ documents is none }}{{ date_string is defined }}", "TrueTrueFalse"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("{{ '🦙\0\ud83e\udd99'[:2] }}", "🦙\0"),
    ],
)
def test_what_templates_may_count_on(source: str, text: str) -> None:
    assert render_one(source) == text


@pytest.mark.parametrize("source", [CHATML, "{{ messages | tojson }}{{ strftime_now('%Y') }}"])
def test_templates_render_as_transformers_renders_them(source: str) -> None:
    pytest.importorskip("transformers", reason="the oracle of chat templates")
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": "system", "content": " Bé brief. "}, *HELLO]
    expected, _ = render_jinja_template(
        conversations=[conversation],
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    given = {"messages": conversation}
    now = datetime.now()
    assert render(source, [given], now=now, bos_token="<s>", eos_token="</s>") == expected


def test_a_template_may_refuse_one_conversation_and_render_the_next() -> None:
    source = "{% if messages | length > 1 %}{{ raise_exception('one\nonly') }}{% endif %}ok"
    refused, text = render(source, [{"messages": HELLO * 2}, {"messages": HELLO}], now=MORNING)
    assert isinstance(refused, InvalidRequest)
    assert str(refused) == "the chat template says: one only"
    assert text == "ok"


def test_a_template_that_fails_on_a_conversation_is_at_fault_itself() -> None:
    failed = render_one("{{ nothing.at.all }}")
    assert isinstance(failed, ModelFormatError)
    assert "UndefinedError" in str(failed)


@pytest.mark.parametrize("source", ["{% if %}", "{{ (" + "(" * 50_000, "{% unknown %}"])
def test_a_template_that_is_no_jinja_is_refused(source: str) -> None:
    with pytest.raises(ModelFormatError, match=r"tokenizer.chat_template: .*built-in chat format"):
        render_one(source)


@pytest.mark.parametrize(
    "payload",
    [
        "cycler.__init__.__globals__.os.system('touch CANARY')",
        "''.__class__.__mro__[1].__subclasses__()",
        "lipsum.__globals__['os'].popen('touch CANARY').read()",
        "('{0.__class__}').format(lipsum)",
        "messages.append(1)",
        "(messages[0] | attr('__class__')).__name__",
        "self._TemplateReference__context.environment",
        "raise_exception.__globals__",
        "strftime_now.__self__.__class__",
        "tojson.__globals__",
    ],
)
def test_a_template_cannot_reach_out_of_the_sandbox(payload: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    outcome = render_one("{{ " + payload.replace("CANARY", str(canary)) + " }}")
    assert isinstance(outcome, ModelFormatError) or outcome == ""
    assert not canary.exists()


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",  # one operation that never lets go of Python's lock
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 'x' | center(10 ** 10) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_loops_and_bombs_end_within_the_limits(bomb: str) -> None:
    begun = os.times()
    try:
        outcome: object = render_one(bomb)
    except ModelFormatError as error:
        outcome = error
    assert isinstance(outcome, ModelFormatError)
    ended = os.times()
    work_s = ended.children_user + ended.children_system
    work_s -= begun.children_user + begun.children_system
    assert work_s < 10  # 2 s of rendering, begun ones counted whole, and the start


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_the_bombs_memory_is_never_ours() -> None:
    def resident_mb() -> float:
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        )

    before = resident_mb()
    with pytest.raises(ModelFormatError, match="2 s, 512 MB"):
        render_one("{% for i in range(99999) %}{{ 'x' * 10 ** 6 }}{% endfor %}")
    assert resident_mb() - before < 50


def test_text_beyond_the_cap_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="MB of text"):
        render_one("{% for i in range(20) %}{{ 'x' * 10 ** 6 }}{% endfor %}")


def test_a_source_beyond_64_kb_is_refused_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ModelFormatError, match="65,537 characters"):
        render_one("x" * 65_537)


def test_nothing_of_jinja_is_loaded_here() -> None:
    import subprocess

    code = (
        "import sys\n"
        "from datetime import datetime\n"
        "from edgellama.chat_template import render\n"
        "print(render('{{ 1 + 1 }}', [{}], now=datetime.now()), 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['2'] False\n"
