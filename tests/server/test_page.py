"""What the web page does: talking, conversations, files, troubles."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellama.llama import shipped_model

pytest.importorskip("playwright", reason="needs the extra `test`: playwright, to drive Chromium")
pytest.register_assert_rewrite("page_reader")

from page_reader import (  # noqa: E402
    STORY,
    answers,
    ask,
    begin_chat,
    expect,
    reload,
    requests_of,
    say,
    serving,
    set_sampling,
    slow_line,
    wait_for_answer,
    wait_until,
    wait_until_ready,
)

pytest_plugins = ["page_reader"]
N_CTX = 1024  # of the shipped model


# --- talking


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
    with slow_line(page):
        say(page, STORY)
        wait_until(page, "() => lengths.length >= 3")
        expect(page.locator("#stop")).to_be_visible()
    wait_for_answer(page)
    assert page.evaluate("lengths.at(-1)") == len(answers(page).text_content()) > 100
    expect(page.locator(".assistant .stats")).to_have_text(
        re.compile(r"^\d+ tokens · [\d.,]+ tokens/s · first after [\d.]+ m?s$")
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
    reload(page)
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


def test_a_message_is_edited_in_peace_while_an_answer_comes_to_its_end(page: Any) -> None:
    ask(page, "Who are you?")
    with slow_line(page):
        say(page, STORY)
        expect(answers(page)).to_have_count(2)
        page.locator(".message.user").first.hover()
        page.locator(".message.user").first.get_by_label("Edit this message").click()
        page.keyboard.type(" And why")
    wait_for_answer(page)
    page.keyboard.type("?")
    expect(page.locator(".edit textarea")).to_be_focused()
    expect(page.locator(".edit textarea")).to_have_value("Who are you? And why?")


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
    reload(page)
    ask(page, "Thank you")
    begin_chat(page)
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
    expect(page.locator("#settings [name=top_p]:invalid")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()


def test_each_conversation_has_the_model_that_was_chosen_for_it(
    reader: Callable[..., Any],
) -> None:
    with shipped_model() as path, serving(f"one={path}", f"two={path}") as address:
        page = reader(address, model="one")
        sent = requests_of(page)
        page.locator("#model").select_option("two")
        ask(page, "Who are you?")
        expect(page.locator("#tokens")).to_contain_text("of 1,024")  # known once it is loaded
        page.reload()
        expect(page.locator("#model")).to_have_value("two")
        page.evaluate("location.hash = ''")
        expect(page.locator(".message")).to_have_count(0)
        page.locator("#model").select_option("one")
        ask(page, "Who are you?")
        page.go_back()
        expect(page.locator("#model")).to_have_value("two")
        assert [body["model"] for body in sent] == ["two", "one"]


# --- conversations


def test_a_reload_keeps_the_conversation(page: Any) -> None:
    answer = ask(page, STORY)
    figures = page.locator(".stats").last.inner_text()
    reload(page)
    expect(page.locator(".user .text")).to_have_text(STORY)
    assert answers(page).inner_text() == answer
    assert page.locator(".stats").last.inner_text() == figures
    expect(page.locator("#conversations a[aria-current=page]")).to_have_text(STORY)


def test_a_reload_amid_an_answer_keeps_what_was_said(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        wait_until(
            page,
            """async () => {
                const { Conversations } = await import("/conversations.js");
                const [chat] = (await Conversations.open(() => {})).list();
                return chat?.messages[1]?.content.length > 10;
            }""",
        )
        page.goto("about:blank")
    page.go_back()
    expect(page.locator(".assistant .note")).to_have_text("This answer broke off.")
    assert len(answers(page).inner_text()) > 10
    wait_until_ready(page)
    page.get_by_label("Answer again").click()
    expect(page.locator(".assistant .stats")).not_to_be_empty()
    assert page.locator(".message").count() == 2


def test_two_conversations_are_apart_even_while_one_is_answered(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        expect(page.locator("#conversations a.answering")).to_have_count(1)
        begin_chat(page)
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
    reload(page)
    expect(page.locator("#conversations a")).to_have_count(0)


def test_a_conversation_deleted_amid_its_answer_does_not_come_back(page: Any) -> None:
    with slow_line(page):
        say(page, STORY)
        expect(answers(page)).not_to_be_empty()
        page.locator("#menu summary").click()
        page.get_by_text("Delete…").click()
        page.locator("#question [value=ok]").click()
        expect(page.locator(".message")).to_have_count(0)
    page.wait_for_timeout(300)
    expect(page.locator("#conversations a")).to_have_count(0)
    reload(page)
    expect(page.locator("#conversations a")).to_have_count(0)


def test_another_tab_sees_the_answer(page: Any) -> None:
    ask(page, "Who are you?")
    other = page.context.new_page()
    other.goto(page.url)
    wait_until_ready(other)
    answer = ask(page, STORY)
    expect(answers(other).last).to_have_text(answer, use_inner_text=True)


# --- files and the context


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
    def expect_used(tokens: range) -> None:
        shown = "|".join(f"{n:,}" for n in tokens)
        expect(page.locator("#tokens")).to_have_text(re.compile(f"^({shown}) of {N_CTX:,} tokens$"))

    set_sampling(page, temperature="0")  # what is most likely is split as the tokenizer splits it
    expect_used(range(1))
    page.locator("#message").fill(STORY)
    expect_used(range(10, 40))
    written = int(page.locator("#tokens").inner_text().split()[0])
    ask(page, STORY)
    n_answer = int(page.locator(".assistant .stats").inner_text().split()[0])
    # The answer's end and the next header are counted with it: a handful of control tokens.
    expect_used(range(written + n_answer, written + n_answer + 10))


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


def test_an_answer_that_fills_the_context_says_so(page: Any) -> None:
    set_sampling(page, temperature="0", system="Pip is a fox. " * 185)
    ask(page, STORY)
    expect(page.locator(".assistant .note")).to_contain_text("the context is full")


# --- troubles


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
    reload(page)
    expect(page.locator("#trouble")).to_contain_text("no answer yet")
    page.get_by_text("Try again").click()
    expect(answers(page)).not_to_be_empty()


def test_a_key_is_asked_for_and_forgotten_with_the_tab(reader: Callable[..., Any]) -> None:
    with serving(EDGELLAMA_API_KEY="open-sesame") as address:
        page = reader(address, model=None)
        key = page.get_by_label("API key")
        key.fill("a wrong one")
        key.press("Enter")
        expect(page.locator("#question")).to_contain_text("not the right one")
        key.fill("open-sesame")
        key.press("Enter")
        assert ask(page, "Who are you?") != ""
        reload(page)
        assert ask(page, "Who are you?") != ""
        other = page.context.new_page()
        other.goto(address)
        expect(other.get_by_label("API key")).to_be_visible()
        other.keyboard.press("Escape")
        expect(other.locator("#trouble")).to_contain_text("wants its API key")
