"""Commands to be ended in the midst of their work: however late that is, they are not done yet."""

import subprocess
import sys
import time
from pathlib import Path

# All is as ever, but the new model never takes its name.
_BEGIN = """
import os, runpy, time
replace = os.replace

def wait_for_the_end(source, target):
    time.sleep(600 if str(target).endswith(".gguf") else 0)
    replace(source, target)

os.replace = wait_for_the_end
runpy.run_module("edgellama", run_name="__main__")
"""


def begin(folder: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    """A command that makes a model in `folder`, of which the first megabyte is written."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGIN, *map(str, arguments)], stderr=subprocess.PIPE
    )
    while not any(path.stat().st_size > 1 << 20 for path in folder.glob("*partial*")):
        assert process.poll() is None
        time.sleep(0.001)
    return process
