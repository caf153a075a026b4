"""A reader of the web page: headless Chromium in front of `edgellama serve` and the shipped model.

Test modules load this as a plugin. Every page also fails its test on a request that leaves the
server, on an error in its scripts and on whatever its content security policy refuses.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `test`: playwright, which drives Chromium"
)
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
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


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")  # no longer: while it lives, this thread cannot run another loop
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Any) -> Iterator[Callable[..., Any]]:
    """reader(address, width=..., ...) -> the page, in a browser that knows nothing yet.

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
