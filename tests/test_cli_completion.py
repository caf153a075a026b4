"""`edgellama completion`: the scripts, and what bash makes of one."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellama import cli
from edgellama.cli.completion import SHELLS, script

# As bash does at a press of Tab: the words so far, the last of them unfinished.
COMPLETE = """\
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
read -ra declared < <(complete -p edgellama)
for i in "${!declared[@]}"; do [ "${declared[i]}" = -F ] && "${declared[i + 1]}"; done
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def completed(tmp_path: Path) -> Callable[..., list[str]]:
    """completed(word, ...) -> what bash offers for the last word of a command line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    (tmp_path / "edgellama.bash").write_text(script("bash"))
    (tmp_path / "llama.gguf").touch()

    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            [bash, "-c", COMPLETE, "bash", "edgellama.bash", "edgellama", *words],
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            timeout=60,
        )
        return done.stdout.split()

    return completed


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert "--context-policy" in out or "-l context-policy" in out


def test_a_shell_must_be_named_and_known(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["completion"], ["completion", "dos"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments)


def test_bash_completes_commands_options_choices_and_files(
    completed: Callable[..., list[str]],
) -> None:
    assert completed("") == list(cli.COMMANDS)
    assert completed("qu") == ["quantize"]
    assert completed("chat", "--context") == ["--context-policy"]
    assert completed("chat", "--context-policy", "") == ["error", "shift", "truncate-oldest"]
    assert completed("quantize", "--type", "Q4_K") == ["Q4_K_M", "Q4_K_S", "Q4_K"]
    assert completed("chat", "lla") == ["llama.gguf"]
    assert completed("chat", "--draft", "lla") == ["llama.gguf"]
