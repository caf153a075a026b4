"""Every example runs, from a folder of its own, with the model that ships."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellama import ResourceError
from edgellama.llama import shipped_model

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEED_NO_MODEL = {"compare_formats.py"}

# What must be seen in the output of each.
SAID = {
    "chat.py": "prompt tokens were new)",
    "compare_formats.py": "Q4_0               4.5",
    "embed_in_app.py": " words, ",
    "hello.py": " ",
    "stream.py": " tokens, ",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
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
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert SAID[example.name] in done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40
