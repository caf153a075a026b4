"""How the web page looks and is used: model's text, keyboard, screen readers, colours, sizes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="needs the extra `test`: playwright, to drive Chromium")
pytest.register_assert_rewrite("page_reader")

from page_reader import (  # noqa: E402
    STORY,
    answers,
    ask,
    expect,
    keep,
    reload,
    say,
    slow_line,
    wait_for_answer,
    wait_until,
)

pytest_plugins = ["page_reader"]


# --- what answers may do to the page


def test_an_answer_with_html_stays_text(page: Any) -> None:
    answer = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>'

    def force(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"grammar": f"root ::= {json.dumps(answer)}"}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", force)
    assert ask(page, "Say something in HTML.") == answer
    assert page.locator("#messages :is(script, img)").count() == 0
    assert "owned" not in page.title()
    reload(page)
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
    """A second of work each: what takes quadratic time takes far longer at 20,000 letters."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def work_s() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(float(m["value"]) for m in metrics if m["name"] == "TaskDuration")

    units = ("*a ", "[", "`", "> ", "- ", "_", "# ", "|", "![a](", "~~x ", "https://", "<a>", "\\")
    slow = {}
    for unit in units:
        begun_s = work_s()
        page.evaluate(SHOWN, unit * (20_000 // len(unit)))
        if (took_s := work_s() - begun_s) > 1:
            slow[unit] = took_s
    assert slow == {}


# --- readers of every kind


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
    expect(page.locator("#settings")).to_be_hidden()
    page.keyboard.press("Alt+k")
    expect(page.locator("#shortcuts")).to_be_visible()
    expect(page.locator("#shortcuts")).to_contain_text("edit your last message")
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
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
        expect(answers(page).last).to_have_text(re.compile(rf"^.{{{length + 80}}}", re.DOTALL))
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
    page.evaluate(
        """() => {
            window.done = [];  // the buttons that said so, each for a moment
            new MutationObserver((changes) => {
                for (const { target } of changes) if (target.matches(".done")) done.push(target);
            }).observe(document.body, { attributeFilter: ["class"], subtree: true });
        }"""
    )
    for name, text in ((".assistant [data-do=copy]", answer), ("figcaption button", "print(1)")):
        page.locator(name).click()
        wait_until(page, "(name) => done.at(-1)?.matches(name)", name)
        assert page.evaluate("navigator.clipboard.readText()") == text


# --- looks


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
    expect(page.locator("#new-chat")).to_be_hidden()
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
    reload(page)
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
