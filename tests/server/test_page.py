"""The web page as readers use it: headless Chromium, `edgellama serve` and the shipped model.

Every test also fails on a request that leaves the server, on an error in the page's scripts and on
whatever the page's content security policy refuses.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `test`: playwright, which drives Chromium"
)
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
FLAGS = (
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STORY = "Tell me a story about a fox named Pip."
N_CTX = 1024  # of the shipped model


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """A server of the shipped model, in a process of its own: its address."""
    command = [sys.executable, "-m", "edgellama", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stdout is not None
    try:
        said = ""
        while not (address := re.search(r"http://[\w.:\[\]]+", said)):
            line = process.stdout.readline()
            assert line, f"the server ended: {said}"
            said += line
        yield address[0].rstrip("/")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Any) -> Iterator[Callable[..., Any]]:
    """reader(address, width=..., ...) -> the page, in a browser that knows nothing yet."""
    contexts = []
    complaints: list[str] = []

    def open_page(
        address: str, width: int = 1100, height: int = 700, ready: bool = True, **options: Any
    ) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)

        def watch(page: Any) -> None:
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complain(message.type, message.text))
            page.on("request", lambda request: complain_of_foreign(request.url))

        def complain(kind: str, text: str) -> None:
            if kind == "error" and not text.startswith("Failed to load resource"):
                complaints.append(text)

        def complain_of_foreign(url: str) -> None:
            if not url.startswith((f"{address}/", "blob:")):
                complaints.append(f"a request to {url}")

        context.on("page", watch)
        page = context.new_page()
        page.goto(address)
        if ready:
            expect(page.locator("#model")).to_have_value("tiny")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(reader: Callable[..., Any], address: str) -> Any:
    return reader(address)


def say(page: Any, text: str) -> None:
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")


def wait_for_answer(page: Any) -> None:
    page.locator("#send").wait_for()  # which Stop hides as long as it takes
    expect(page.locator("#stop")).to_be_hidden()


def ask(page: Any, text: str) -> str:
    """Say something and wait for the answer."""
    say(page, text)
    expect(page.locator(".message.user .text").last).to_have_text(text)
    wait_for_answer(page)
    return str(answers(page).last.inner_text())


def answers(page: Any) -> Any:
    return page.locator(".message.assistant .text")


@contextmanager
def slow_line(page: Any, bytes_per_second: int = 8_000) -> Iterator[None]:
    """Answers come slowly enough to be interrupted."""
    session = page.context.new_cdp_session(page)
    session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 0,
            "downloadThroughput": bytes_per_second,
            "uploadThroughput": -1,
        },
    )
    yield
    session.detach()


def requests_of(page: Any) -> list[dict[str, Any]]:
    """A list to which the bodies of later questions are added."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/v1/chat/completions"):
            bodies.append(json.loads(request.post_data))

    page.on("request", note)
    return bodies


def set_sampling(page: Any, **values: str) -> None:
    page.locator("#open-settings").click()
    for name, value in values.items():
        page.locator(f"#settings [name={name}]").fill(value)
    page.locator("#settings [value=save]").click()


def keep(page: Any, *messages: dict[str, Any]) -> None:
    """Put a conversation into the browser's storage, and open it."""
    page.evaluate(
        """async (messages) => {
            const { Conversations, newConversation } = await import("/conversations.js");
            const store = await Conversations.open(() => {});
            await store.save({ ...newConversation(), id: "kept", messages });
            location.hash = "kept";
        }""",
        list(messages),
    )
    page.reload()


# ------------------------------------------------------------------ talking


def test_an_answer_streams_in_and_ends_with_its_figures(page: Any) -> None:
    page.evaluate(
        """() => {
            window.lengths = [];
            new MutationObserver(() => {
                const text = document.querySelector(".assistant .text")?.textContent;
                if (text && text.length > (lengths.at(-1) ?? 0)) lengths.push(text.length);
            }).observe(document.body, { childList: true, subtree: true });
        }"""
    )
    answer = ask(page, STORY)
    assert len(answer) > 100
    lengths = page.evaluate("lengths")
    assert len(lengths) >= 3
    assert lengths[-1] == len(answer)
    expect(page.locator(".assistant .stats")).to_have_text(
        re.compile(r"^\d+ tokens · [\d.,]+ tokens/s · first after \d+\.\d\d s$")
    )


def test_stop_keeps_what_was_said(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        expect(answers(page)).to_have_text(re.compile(r"\w+ \w+"))
        page.locator("#stop").click()
        wait_for_answer(page)
    said = answers(page).inner_text()
    expect(page.locator(".assistant .note")).to_have_text("You stopped this answer.")
    page.wait_for_timeout(300)
    assert answers(page).inner_text() == said
    page.reload()
    assert answers(page).inner_text() == said


def test_answering_again_replaces_the_last_answer(page: Any) -> None:
    first = ask(page, STORY)
    page.get_by_label("Answer again").click()
    expect(answers(page)).not_to_have_text(first)
    wait_for_answer(page)
    assert page.locator(".message").count() == 2


def test_an_edited_message_replaces_what_followed_it(page: Any) -> None:
    sent = requests_of(page)
    ask(page, "Who are you?")
    ask(page, "What is 12 times 7?")
    page.locator(".message.user").first.hover()
    page.locator(".message.user").first.get_by_label("Edit this message").click()
    page.locator(".edit textarea").fill(STORY)
    page.locator(".edit textarea").press("Enter")
    wait_for_answer(page)
    assert page.locator(".message").count() == 2
    assert sent[-1]["messages"] == [{"role": "user", "content": STORY}]
    expect(page.locator("#title")).to_have_text(STORY)


def test_what_was_said_before_is_sent_along(page: Any) -> None:
    sent = requests_of(page)
    answer = ask(page, "Who are you?")
    ask(page, "Thank you")
    assert sent[-1]["messages"] == [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Thank you"},
    ]


def test_settings_stay_with_their_conversation_and_an_empty_one_is_the_servers(page: Any) -> None:
    sent = requests_of(page)
    set_sampling(page, temperature="0", seed="7", max_tokens="12", system="You tell stories.")
    ask(page, STORY)
    expect(page.locator(".assistant .note")).to_contain_text("the longest answer")
    page.reload()
    expect(page.locator("#model")).to_have_value("tiny")
    ask(page, "Thank you")
    page.locator("#new-chat").click()
    ask(page, STORY)
    for body in sent:
        del body["messages"][1:], body["stream"], body["stream_options"]
    system = {"role": "system", "content": "You tell stories."}
    chosen = {"temperature": 0, "seed": 7, "max_tokens": 12}
    assert sent == [
        {"model": "tiny", "messages": [system], **chosen},
        {"model": "tiny", "messages": [system], **chosen},
        {"model": "tiny", "messages": [{"role": "user", "content": STORY}]},
    ]


def test_a_setting_out_of_range_is_not_accepted(page: Any) -> None:
    set_sampling(page, top_p="1.5")
    assert page.locator("#settings").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#settings").is_visible()


# ------------------------------------------------------------------ conversations


def test_a_reload_keeps_the_conversation(page: Any) -> None:
    answer = ask(page, STORY)
    figures = page.locator(".stats").last.inner_text()
    page.reload()
    expect(page.locator(".user .text")).to_have_text(STORY)
    assert answers(page).inner_text() == answer
    assert page.locator(".stats").last.inner_text() == figures
    expect(page.locator("#conversations a[aria-current=page]")).to_have_text(STORY)


def test_a_reload_amid_an_answer_keeps_what_was_said(page: Any) -> None:
    with slow_line(page, 4_000):
        say(page, STORY)
        expect(answers(page)).to_have_text(re.compile(r"\w+ \w+"))
        page.wait_for_timeout(1_500)  # it is saved every second
        page.goto("about:blank")
    page.go_back()
    expect(page.locator(".assistant .note")).to_have_text("This answer broke off.")
    assert len(answers(page).inner_text()) > 10
    page.get_by_label("Answer again").click()
    expect(page.locator(".assistant .stats")).not_to_be_empty()
    assert page.locator(".message").count() == 2


def test_two_conversations_are_apart_even_while_one_is_answered(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        expect(page.locator("#conversations a.answering")).to_have_count(1)
        page.locator("#new-chat").click()
        expect(page.locator(".message")).to_have_count(0)
        say(page, "Who are you?")
        expect(page.locator("#conversations a.answering")).to_have_count(2)
    wait_for_answer(page)
    answer = answers(page).inner_text()
    expect(page.locator("#conversations a.answering")).to_have_count(0)
    assert page.locator(".message").count() == 2
    page.locator("#conversations a", has_text="fox").click()
    expect(page.locator(".user .text")).to_have_text(STORY)
    assert answers(page).inner_text() != answer
    page.go_back()
    expect(page.locator(".user .text")).to_have_text("Who are you?")


def test_a_conversation_is_renamed_exported_and_deleted(page: Any) -> None:
    answer = ask(page, STORY)
    page.locator("#menu summary").click()
    page.get_by_text("Rename").click()
    page.locator("#question input").fill("Pip: a tale")
    page.locator("#question input").press("Enter")
    expect(page.locator("#conversations a")).to_have_text("Pip: a tale")

    def export(form: str) -> tuple[str, str]:
        page.locator("#menu summary").click()
        with page.expect_download() as download:
            page.get_by_text(f"Export as {form}").click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        return download.value.suggested_filename, text

    name, text = export("Markdown")
    assert (name, text) == (
        "Pip-a-tale.md",
        f"# Pip: a tale\n\n## You\n\n{STORY}\n\n## tiny\n\n{answer}\n",
    )
    name, text = export("JSON")
    assert name == "Pip-a-tale.json"
    assert [m["content"] for m in json.loads(text)["messages"]] == [STORY, answer]

    page.locator("#menu summary").click()
    page.get_by_text("Delete…").click()
    page.locator("#question [value=ok]").click()
    expect(page.locator("#conversations a")).to_have_count(0)
    page.reload()
    expect(page.locator("#conversations a")).to_have_count(0)


def test_another_tab_sees_the_answer(page: Any) -> None:
    ask(page, "Who are you?")
    other = page.context.new_page()
    other.goto(page.url)
    answer = ask(page, STORY)
    expect(answers(other).last).to_have_text(answer)


# ------------------------------------------------------------------ files and the context


def text_file(name: str, text: str | bytes) -> dict[str, Any]:
    data = text.encode() if isinstance(text, str) else text
    return {"name": name, "mimeType": "text/plain", "buffer": data}


def test_an_attached_file_is_a_quoted_part_of_the_message(page: Any) -> None:
    sent = requests_of(page)
    page.set_input_files("#file", text_file("pip.txt", "Pip is a ```red``` fox.\n"))
    expect(page.locator("#chips")).to_contain_text("pip.txt")
    ask(page, "Who is Pip?")
    assert sent[-1]["messages"] == [
        {
            "role": "user",
            "content": "pip.txt:\n````\nPip is a ```red``` fox.\n````\n\nWho is Pip?",
        }
    ]
    expect(page.locator(".user .text")).to_have_text("Who is Pip?")
    page.locator(".user summary").click()
    expect(page.locator(".user pre")).to_have_text("Pip is a ```red``` fox.\n")
    expect(page.locator("#chips")).to_be_hidden()


def test_a_file_longer_than_the_context_is_refused_in_words(page: Any) -> None:
    page.set_input_files("#file", text_file("long.txt", "Pip is a fox. " * 500))
    expect(page.locator("#composer-note")).to_have_text(
        re.compile(
            r"^long\.txt has about 2,000 words \([\d,]+ tokens\); the context has room for about "
            r"[\d,]+ \([\d,]+ tokens\)\. Attach a part of it, or start a new chat\.$"
        )
    )
    page.set_input_files("#file", text_file("huge.txt", "Pip is a fox. " * 5_000))
    expect(page.locator("#composer-note")).to_contain_text("huge.txt has about 70,000 bytes")
    expect(page.locator("#chips")).to_be_hidden()


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\xff\xfe", b"zero \0 byte"])
def test_a_file_that_is_no_text_is_refused(page: Any, data: bytes) -> None:
    page.set_input_files("#file", text_file("image.png", data))
    expect(page.locator("#composer-note")).to_contain_text("image.png is not")
    expect(page.locator("#chips")).to_be_hidden()


def test_the_meter_counts_the_context_with_what_is_being_written(page: Any) -> None:
    def used() -> int:
        shown = re.fullmatch(r"([\d,]+) of 1,024 tokens", page.locator("#tokens").inner_text())
        return int(shown[1].replace(",", "")) if shown else -1

    expect(page.locator("#tokens")).to_have_text(f"0 of {N_CTX:,} tokens")
    page.locator("#message").fill(STORY)
    expect(page.locator("#tokens")).not_to_have_text(f"0 of {N_CTX:,} tokens")
    written = used()
    assert 10 < written < 40
    ask(page, STORY)
    n_answer = int(page.locator(".assistant .stats").inner_text().split()[0])
    # The answer's end and the next header are counted with it: a handful of control tokens.
    expect(page.locator("#tokens")).to_have_text(re.compile("tokens$"))  # no speed any more
    assert 0 <= used() - (written + n_answer) < 10


def test_a_full_context_says_the_numbers_and_what_to_do(page: Any) -> None:
    say(page, "Pip is a fox. " * 400)
    trouble = page.locator("#trouble")
    expect(trouble).to_have_text(re.compile(r"The context is full\..*\b1,?024\b"))
    expect(page.locator("#gauge")).to_have_class(re.compile("full"))
    trouble.get_by_text("Edit the message").click()
    page.locator(".edit textarea").fill("Who are you?")
    page.locator(".edit textarea").press("Enter")
    wait_for_answer(page)
    expect(trouble).to_be_hidden()
    expect(answers(page)).not_to_be_empty()


# ------------------------------------------------------------------ troubles


def test_a_server_that_is_gone_is_told_and_asked_again(page: Any) -> None:
    page.context.set_offline(True)
    say(page, "Who are you?")
    expect(page.locator("#trouble")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    page.get_by_text("Try again").click()
    expect(answers(page)).not_to_be_empty()
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_message_without_an_answer_can_be_answered_after_a_reload(page: Any) -> None:
    page.context.set_offline(True)
    say(page, "Who are you?")
    page.locator("#trouble").wait_for()
    page.context.set_offline(False)
    page.reload()
    expect(page.locator("#trouble")).to_contain_text("no answer yet")
    page.get_by_text("Try again").click()
    expect(answers(page)).not_to_be_empty()


def test_a_key_is_asked_for_and_forgotten_with_the_tab(reader: Callable[..., Any]) -> None:
    with serving(EDGELLAMA_API_KEY="open-sesame") as address:
        page = reader(address, ready=False)
        key = page.get_by_label("API key")
        key.fill("a wrong one")
        key.press("Enter")
        expect(page.locator("#question")).to_contain_text("not the right one")
        key.fill("open-sesame")
        key.press("Enter")
        assert ask(page, "Who are you?") != ""
        page.reload()
        assert ask(page, "Who are you?") != ""
        other = page.context.new_page()
        other.goto(address)
        expect(other.get_by_label("API key")).to_be_visible()
        other.keyboard.press("Escape")
        expect(other.locator("#trouble")).to_contain_text("wants its API key")


# ------------------------------------------------------------------ what answers may do to the page


def test_an_answer_with_html_stays_text(page: Any) -> None:
    answer = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>'

    def force(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"grammar": f"root ::= {json.dumps(answer)}"}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", force)
    assert ask(page, "Say something in HTML.") == answer
    assert page.locator("#messages :is(script, img)").count() == 0
    assert "owned" not in page.title()
    page.reload()
    assert answers(page).inner_text() == answer


MARKDOWN = {
    "# One\n## Two #x": "<h3>One</h3><h4>Two #x</h4>",
    "a *b* **c** ***d*** ~~e~~": "<p>a <em>b</em> <strong>c</strong> "
    "<strong><em>d</em></strong> <s>e</s></p>",
    "**bold *both***": "<p><strong>bold <em>both</em></strong></p>",
    "*a **b** c*": "<p><em>a <strong>b</strong> c</em></p>",
    "snake_case_name and 2 * 3 * 4": "<p>snake_case_name and 2 * 3 * 4</p>",
    "not closed **yet": "<p>not closed **yet</p>",
    r"\*no\* `a*b*` ``c`d``": "<p>*no* <code>a*b*</code> <code>c`d</code></p>",
    "one\ntwo\n\nthree": "<p>one<br>two</p><p>three</p>",
    "- a\n- b\n  - c\n\n1. d\n2. e": "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul>"
    '</li></ul><ol start="1"><li><p>d</p></li><li><p>e</p></li></ol>',
    "3. c\n\n   more\n4. d": '<ol start="3"><li><p>c</p><p>more</p></li><li><p>d</p></li></ol>',
    "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
    "a\n\n---\nb": "<p>a</p><hr><p>b</p>",
    "| a | b |\n|--|-:|\n| 1 | `2` |": '<div class="table" tabindex="0"><table><thead><tr>'
    '<th class="left">a</th><th class="right">b</th></tr></thead><tbody><tr><td class="left">1</td>'
    '<td class="right"><code>2</code></td></tr></tbody></table></div>',
    "```py\nx < 1\n\n# y\n```\nz": '<figure class="code"><figcaption><span>py</span>'
    '<button type="button" class="quiet">Copy</button></figcaption><pre tabindex="0"><code>x &lt; 1'
    "\n\n# y</code></pre></figure><p>z</p>",
    "[a](https://b.org/c_(d)) ![e](http://f.org)": '<p><a href="https://b.org/c_(d)" '
    'target="_blank" rel="noopener noreferrer nofollow">a</a> <a href="http://f.org" '
    'target="_blank" rel="noopener noreferrer nofollow">e</a></p>',
    "see https://a.org/b_c_d.": '<p>see <a href="https://a.org/b_c_d" target="_blank" '
    'rel="noopener noreferrer nofollow">https://a.org/b_c_d</a>.</p>',
    "[a](javascript:alert(1)) [b](/c)": "<p>[a](javascript:alert(1)) [b](/c)</p>",
    "<b>x</b> &amp; <!-- y -->": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;!-- y --&gt;</p>",
}

SHOWN = """async (text) => {
    const { showMarkdown } = await import("/markdown.js");
    const shown = document.createElement("div");
    showMarkdown(shown, text);
    return shown.innerHTML;
}"""


def test_markdown_becomes_these_elements(page: Any) -> None:
    shown = {text: page.evaluate(SHOWN, text) for text in MARKDOWN}
    assert shown == MARKDOWN


def test_markdown_that_grows_letter_by_letter_ends_as_if_it_came_at_once(page: Any) -> None:
    text = "\n\n".join(MARKDOWN)
    grown = page.evaluate(
        """async (text) => {
            const { showMarkdown } = await import("/markdown.js");
            const shown = document.createElement("div");
            for (let end = 0; end <= text.length; end++) showMarkdown(shown, text.slice(0, end));
            return shown.innerHTML;
        }""",
        text,
    )
    assert grown == page.evaluate(SHOWN, text)


def test_hostile_markdown_is_shown_in_time(page: Any) -> None:
    """A second each: what takes quadratic time takes far longer at 20,000 letters."""
    units = ("*a ", "[", "`", "> ", "- ", "_", "# ", "|", "![a](", "~~x ", "https://", "<a>", "\\")
    slow = {}
    for unit in units:
        elapsed_ms = page.evaluate(
            f"""async (text) => {{
                const begun = performance.now();
                await ({SHOWN})(text);
                return performance.now() - begun;
            }}""",
            unit * (20_000 // len(unit)),
        )
        if elapsed_ms > 1_000:
            slow[unit] = elapsed_ms
    assert slow == {}


# ------------------------------------------------------------------ readers of every kind


def test_it_is_used_with_the_keyboard_alone(page: Any) -> None:
    page.keyboard.type("Tell me a story")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("about a fox.")
    page.keyboard.press("Enter")
    expect(page.locator(".user .text")).to_have_text("Tell me a story\nabout a fox.")
    wait_for_answer(page)

    page.keyboard.press("ArrowUp")
    expect(page.locator(".edit textarea")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#message")).to_be_focused()

    first = answers(page).inner_text()
    page.keyboard.press("Alt+r")
    expect(answers(page)).not_to_have_text(first)
    wait_for_answer(page)

    page.keyboard.press("Alt+s")
    expect(page.locator("#settings textarea")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+k")
    expect(page.locator("#shortcuts")).to_contain_text("edit your last message")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+n")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#message")).to_be_focused()


def test_escape_stops_an_answer(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        expect(answers(page)).to_have_text(re.compile(r"\w+ \w+"))
        page.keyboard.press("Escape")
    expect(page.locator(".assistant .note")).to_have_text("You stopped this answer.")


def test_tab_reaches_everything_in_the_order_of_the_page(page: Any) -> None:
    ask(page, "Who are you?")
    order = []
    for _ in range(20):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                """() => {
                    const at = document.activeElement;
                    return at.id || at.dataset.do || at.name || at.className || at.localName;
                }"""
            )
        )
    begin = order.index("skip")
    stations = [station for station in order[begin:] if station != "body"]
    assert stations[:7] == [
        "skip",
        "new-chat",
        "a",
        "theme",
        "open-shortcuts",
        "open-settings",
        "icon-button",  # the menu
    ]
    assert "transcript" in stations


def test_every_control_has_a_name_for_screen_readers(page: Any) -> None:
    ask(page, "Who are you?")
    page.locator("#open-settings").click()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "textbox", "combobox", "link", "radio", "spinbutton", "meter", "dialog"}
    found = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert ("spinbutton", "Temperature 0 takes the likeliest token, 1 is the model as trained") in [
        (role, re.sub(r"\s+", " ", name)) for role, name in found
    ]
    assert [control for control in found if not control[1].strip()] == []


def test_a_screen_reader_hears_the_whole_answer_once(page: Any) -> None:
    page.evaluate(
        """() => {
            window.heard = [];
            const announcer = document.querySelector("[aria-live=polite]#announcer");
            new MutationObserver(() => heard.push(announcer.textContent))
                .observe(announcer, { childList: true });
        }"""
    )
    answer = ask(page, STORY)
    assert page.evaluate("heard") == ["Answering", answer]
    assert page.locator("#transcript[aria-live], #messages[aria-live]").count() == 0


def test_scrolling_up_is_not_fought_while_an_answer_grows(
    reader: Callable[..., Any], address: str
) -> None:
    page = reader(address, height=330)
    ask(page, STORY)
    with slow_line(page):
        say(page, STORY)
        expect(answers(page).last).to_have_text(re.compile(r"\w+ \w+"))
        transcript = page.locator("#transcript")
        transcript.hover()
        page.mouse.wheel(0, -60)
        expect(page.locator("#latest")).to_be_visible()
        place = transcript.evaluate("(node) => node.scrollTop")
        length = len(answers(page).last.inner_text())
        expect(answers(page).last).to_have_text(re.compile(rf"^.{{{length + 80}}}"))
        assert transcript.evaluate("(node) => node.scrollTop") == place
        page.locator("#latest").click()
        expect(page.locator("#latest")).to_be_hidden()
    wait_for_answer(page)
    assert transcript.evaluate("(n) => n.scrollHeight - n.scrollTop - n.clientHeight") < 2


def test_an_answer_and_its_code_can_be_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer = "Try this:\n\n```py\nprint(1)\n```"
    keep(
        page,
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": answer, "end": "stop"},
    )
    page.locator(".assistant").get_by_label("Copy").click()
    expect(page.locator(".assistant [data-do=copy]")).to_have_class(re.compile("done"))
    assert page.evaluate("navigator.clipboard.readText()") == answer
    page.locator("figcaption button").click()
    expect(page.locator("figcaption button")).to_have_class(re.compile("done"))
    assert page.evaluate("navigator.clipboard.readText()") == "print(1)"


# ------------------------------------------------------------------ looks


def test_360_pixels_need_no_scrolling_to_the_side(reader: Callable[..., Any], address: str) -> None:
    page = reader(address, width=360, height=740)
    wide = "\n\n".join(
        ["w" * 300, f"```\n{'c' * 300}\n```", "|" + "h|" * 9 + "\n|" + "-|" * 9, "- " + "i" * 200]
    )
    keep(
        page,
        {"role": "user", "content": "w" * 300, "files": [{"name": "n" * 90, "text": "x" * 300}]},
        {"role": "assistant", "content": wide, "end": "stop"},
    )
    page.locator(".user summary").click()
    for place in ("html", "#transcript", "#composer"):
        wider = page.locator(place).evaluate("(node) => node.scrollWidth - node.clientWidth")
        assert wider == 0, place
    page.locator("#open-settings").click()
    assert page.locator("#settings").evaluate("(n) => n.scrollWidth - n.clientWidth") == 0


def test_narrow_screens_have_the_conversations_in_a_drawer(
    reader: Callable[..., Any], address: str
) -> None:
    page = reader(address, width=360, height=740)
    ask(page, "Who are you?")
    assert not page.locator("#new-chat").is_visible()
    page.locator("#open-drawer").click()
    expect(page.locator("#close-drawer")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#open-drawer")).to_be_focused()
    expect(page.locator("#new-chat")).to_be_hidden()
    page.locator("#open-drawer").click()
    page.locator("#new-chat").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#new-chat")).to_be_hidden()
    page.locator("#open-drawer").click()
    page.locator("#conversations a").click()
    expect(page.locator(".message")).to_have_count(2)


def test_colours_follow_the_system_until_the_reader_chooses(
    reader: Callable[..., Any], address: str
) -> None:
    page = reader(address, color_scheme="dark")

    def lightness() -> int:
        colour = page.locator("body").evaluate("(n) => getComputedStyle(n).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert lightness() < 150
    page.get_by_text("Light", exact=True).click()
    assert lightness() > 700
    page.reload()
    assert lightness() > 700
    page.get_by_text("Auto", exact=True).click()
    assert lightness() < 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(
    reader: Callable[..., Any], address: str, scheme: str
) -> None:
    """4.5 for text (1.4.3), 3 for the edges of fields (1.4.11)."""
    page = reader(address, color_scheme=scheme)

    def luminance(name: str) -> float:
        colour = page.evaluate(
            """(name) => {
                document.body.style.color = `var(--${name})`;
                return getComputedStyle(document.body).color;
            }""",
            name,
        )
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(one), luminance(other)))
        return (light + 0.05) / (dark + 0.05)

    grounds = ("paper", "shade", "raised", "bubble", "code")
    pairs = [(ink, ground, 4.5) for ink in ("ink", "faint") for ground in grounds]
    pairs += [("accent", "paper", 4.5), ("on-accent", "accent", 4.5), ("edge", "raised", 3)]
    pairs += [("danger", ground, 4.5) for ground in ("danger-shade", "raised")]
    poor = [(one, other) for one, other, least in pairs if contrast(one, other) < least]
    assert poor == []
