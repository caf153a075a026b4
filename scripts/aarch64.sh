#!/usr/bin/env bash
# An aarch64 Python with what edgellama needs, on x86-64 Debian, by qemu's user mode.
#
#   scripts/aarch64.sh FOLDER       makes FOLDER/python; where that is there, does nothing
#
# Then, from the root of the checkout, it is used like any Python:
#
#   EDGELLAMA_CPU=neon_dotprod FOLDER/python -m pytest tests/quant/test_kernels.py
#   QEMU_CPU=cortex-a72 FOLDER/python -m edgellama doctor       a core that has plain NEON only
#
# It needs apt, dpkg-deb, and a Python with pip, but not root: packages are unpacked into FOLDER
# (about 800 MB) and nothing of the system changes. Emulated code runs some twenty times slower, and
# numba compiles with it, so run one test file at a time and keep EDGELLAMA_CACHE_DIR.
# Traps: /proc/cpuinfo is that of the host, which is why tiers are not chosen by it; an instruction
# that QEMU_CPU lacks kills the process with SIGILL, as a real core would.
set -euo pipefail

folder=$(realpath -m "${1:?usage: scripts/aarch64.sh FOLDER}")
host_python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
if [[ -e $folder/python ]]; then exit; fi
root=$folder/root
mkdir -p "$root" "$folder"/{lists/partial,archives/partial,debs}

apt=(-qq -o APT::Sandbox::User=root -o APT::Architecture=arm64
    -o "APT::Architectures=arm64,$(dpkg --print-architecture)"
    -o Dir::State::Lists="$folder/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$folder")
no_more=(--no-{recommends,suggests,conflicts,breaks,replaces,enhances})

echo "packages of Python and of the libraries under it" >&2
apt-get "${apt[@]}" update
wanted=$(apt-cache "${apt[@]}" depends --recurse "${no_more[@]}" \
    python3-minimal libpython3-stdlib libgomp1 libstdc++6 |
    grep -E '^(python|lib|zlib)' | grep -v perl)
(
    cd "$folder/debs"
    # shellcheck disable=SC2086  # a list
    apt-get "${apt[@]}" download $wanted
    for package in *.deb; do dpkg-deb -x "$package" "$root"; done
)

qemu=$(command -v qemu-aarch64-static) || {
    echo "qemu" >&2
    (cd "$folder" && apt-get "${apt[@]}" download "qemu-user-static:$(dpkg --print-architecture)")
    dpkg-deb -x "$folder"/qemu-user-static*.deb "$folder/qemu"
    qemu=$folder/qemu/usr/bin/qemu-aarch64-static
}

version=$(readlink "$root/usr/bin/python3") # python3.11, say
site=$root/usr/local/lib/$version/dist-packages
echo "wheels for $version" >&2
requirements=$("$host_python" -c 'import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")')
"$host_python" -m pip install -q --disable-pip-version-check --upgrade --target "$site" \
    --only-binary=:all: --implementation cp --python-version "${version#python}" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    -r <(echo "$requirements")

# what a program starts by sys.executable is to be emulated too
echo "import sys; sys.executable = '$folder/python'" >"$site/emulated.pth"
rm -rf "$folder"/{lists,archives,debs} "$folder"/*.{bin,deb}
cat >"$folder/python.new" <<END
#!/bin/sh
exec '$qemu' -L '$root' '$root/usr/bin/$version' "\$@"
END
chmod +x "$folder/python.new"
mv "$folder/python.new" "$folder/python"
"$folder/python" -c 'import platform, sys; print(platform.machine(), sys.version)' >&2
