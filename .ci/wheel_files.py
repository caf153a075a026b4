"""Compare a wheel's files with what git tracks: `python .ci/wheel_files.py WHEEL`, from the root.

setuptools drops an unlisted package without a word, and a stale build folder adds files; both end
here. Tracked links stand for folders that are listed by themselves.
"""

import subprocess
import sys
import zipfile

FOLDERS = ("edgellama", "quant", "converters")
LINK_MODE = "120000"


def tracked() -> set[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--stage", "-z", *FOLDERS], check=True, capture_output=True, text=True
    ).stdout
    names = set()
    for entry in listing.split("\0")[:-1]:
        stage, name = entry.split("\t")
        if not stage.startswith(LINK_MODE):
            names.add(name if name.startswith("edgellama/") else f"edgellama/{name}")
    return names


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = tracked()
    for name in sorted(expected - packed):
        print(f"tracked, but not in the wheel: {name}")
    for name in sorted(packed - expected):
        print(f"in the wheel, but not tracked: {name}")
    if packed != expected:
        raise SystemExit(1)
    print(f"{len(packed)} files, as tracked")


if __name__ == "__main__":
    main()
