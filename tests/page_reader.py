"""A reader of the web page: headless Chromium in front of `edgellama serve` and the shipped model.

Test modules load this as a plugin. Every page also fails its test on a request that leaves the
server, on an error in its scripts and on whatever its content security policy refuses.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `test`: playwright, which drives Chromium"
)
PATIENCE_MS = 60_000  # a busy machine may need it; an idle one milliseconds
expect = playwright.expect
expect.set_options(timeout=PATIENCE_MS)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
FLAGS = (
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-smooth-scrolling",  # a turn of the wheel is over at once
)
STORY = "Tell me a story about a fox named Pip."


@contextmanager
def serving(*models: str, **environment: str) -> Iterator[str]:
    """A server of these or the shipped model, in a process of its own: its address."""
    command = [sys.executable, "-m", "edgellama", "serve", "--port", "0", *models]
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
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")  # no longer: while it lives, this thread cannot run another loop
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Any) -> Iterator[Callable[..., Any]]:
    """reader(address, width=..., ...) -> the page, in a browser that knows nothing yet.

    Its first question is sampled with the seed 1, its second with 2, unless they name one.
    model: the one that the page has chosen when it is ready; None: it will not be.
    """
    contexts = []
    complaints: list[str] = []

    def open_page(
        address: str,
        *,
        width: int = 1100,
        height: int = 700,
        model: str | None = "tiny",
        **options: Any,
    ) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        seeds = itertools.count(1)

        def ask_with_seed(route: Any) -> None:
            body = {"seed": next(seeds)} | json.loads(route.request.post_data)
            route.continue_(post_data=json.dumps(body))

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

        context.route("**/v1/chat/completions", ask_with_seed)
        context.on("page", watch)
        page = context.new_page()
        page.goto(address)
        if model is not None:
            expect(page.locator("#model")).to_have_value(model)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(reader: Callable[..., Any], address: str) -> Any:
    return reader(address)


def wait_until_ready(page: Any) -> None:
    """Until all that is kept is shown, and the models are known."""
    expect(page.locator("#model")).not_to_have_value("")


def wait_until(page: Any, condition: str, argument: object = None) -> None:
    """Until a function of JavaScript says true, or promises it.

    Playwright's wait_for_function is refused by the page's content security policy.
    """
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, f"this has not come true: {condition}"
        page.wait_for_timeout(50)


def reload(page: Any) -> None:
    page.reload()
    wait_until_ready(page)


def begin_chat(page: Any) -> None:
    page.locator("#new-chat").click()
    expect(page.locator(".message")).to_have_count(0)


def say(page: Any, text: str) -> None:
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")


def wait_for_answer(page: Any) -> None:
    page.locator("#send").wait_for()  # which Stop hides as long as it takes
    expect(page.locator("#stop")).to_be_hidden()


def ask(page: Any, text: str) -> str:
    """Say something and wait for the answer."""
    said = page.locator(".message.user .text")
    n_said = said.count()
    say(page, text)
    expect(said).to_have_count(n_said + 1)
    expect(said.last).to_have_text(text)
    wait_for_answer(page)
    return str(answers(page).last.inner_text())


def answers(page: Any) -> Any:
    return page.locator(".message.assistant .text")


@contextmanager
def slow_line(page: Any) -> Iterator[None]:
    """An answer takes ten seconds and more: time enough to interrupt it."""
    session = page.context.new_cdp_session(page)
    session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 0,
            "downloadThroughput": 2_000,  # bytes a second; a token takes about 200 bytes
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
    reload(page)
