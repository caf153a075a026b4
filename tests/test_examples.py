"""Every example runs, from a folder of its own, with the model that ships."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import pytest

from edgellama import Llama, ResourceError
from edgellama.llama import shipped_model

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEED_NO_MODEL = {"compare_formats.py"}

APPS = {"window.py", "web_app.py"}  # which do not end by themselves

# What must be seen in the output of each.
SAID = {
    "async_chats.py": "- Once upon a time",
    "chat.py": "prompt tokens were new)",
    "compare_formats.py": "Q4_0               4.5",
    "embed_in_app.py": " words, ",
    "hello.py": " ",
    "search.py": "  The dog was hungry",
    "stream.py": " tokens, ",
    "structured.py": " years",
    "tools.py": "the model asks for the weather of ",
}


@pytest.mark.parametrize(
    "example", [path for path in EXAMPLES if path.name not in APPS], ids=lambda path: path.name
)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    if example.name not in NEED_NO_MODEL:
        try:
            with shipped_model():
                pass
        except ResourceError as error:
            pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        input="Hello\nTell me a story.\n",
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert SAID[example.name] in done.stdout


# Stands in for the loop of Tk: presses Return, and looks at the window until a story is there, the
# likeliest one: one of chance may be short.
TRY_WINDOW = """
import functools, runpy, sys, time, tkinter
from edgellama import Llama

Llama.stream_chat = functools.partialmethod(Llama.stream_chat, temperature=0.0)

def try_it(window):
    entry = next(w for w in window.winfo_children() if w.winfo_class() == "Entry")
    text = next(w for w in window.winfo_children() if w.winfo_class() == "Text")
    entry.focus_force()  # no window manager gives it
    window.update()
    entry.event_generate("<Return>")
    n_updates, end = 0, time.monotonic() + 300
    while len(text.get("1.0", "end")) < 80 and time.monotonic() < end:
        window.update()
        n_updates += 1
    print(text.get("1.0", "end"), n_updates > 5)

tkinter.Tk.mainloop = try_it
runpy.run_path(sys.argv.pop(1))
"""


@pytest.fixture
def display() -> Iterator[str]:
    """A screen for windows: Xvfb's where it is installed, else the one that is there."""
    server = shutil.which("Xvfb")
    if server is None:
        if "DISPLAY" not in os.environ:
            pytest.skip("needs a display, or Xvfb")
        yield os.environ["DISPLAY"]
        return
    read, write = os.pipe()
    command = [server, "-displayfd", str(write), "-screen", "0", "800x600x24"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        name = ":" + number.readline().strip()
    yield name
    process.terminate()
    process.wait()


def test_the_window_fills_while_it_goes_on_moving(display: str) -> None:
    pytest.importorskip("tkinter", reason="needs Python's tkinter")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRY_WINDOW, str(ROOT / "examples/window.py")],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": display},
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 80
    assert done.stdout.endswith("True\n")


def test_the_web_app_streams_and_survives_readers_who_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi")
    from starlette.testclient import TestClient

    # one sampled story in seven is of another animal
    likeliest = partialmethod(Llama.stream_chat, temperature=0.0)
    monkeypatch.setattr(Llama, "stream_chat", likeliest)
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from web_app import app
    finally:
        sys.path.remove(str(ROOT / "examples"))
    with TestClient(app) as client:
        for _ in range(2):
            text = client.get("/story", params={"about": "fox"}).text
            assert "fox" in text
            assert len(text.split()) > 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40
