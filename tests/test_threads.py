"""How many threads suit a machine, on machines laid out as files."""

import sys
from pathlib import Path

import psutil
import pytest

from edgellama import threads
from edgellama.threads import Threads, default_threads

CPU = "sys/devices/system/cpu"


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def processors(allowed: str, siblings: list[str]) -> dict[str, str]:
    """siblings: for each processor, all that share its core."""
    files = {"proc/thread-self/status": f"Name:\tx\nCpus_allowed_list:\t{allowed}\nx:\ty"}
    for n, core in enumerate(siblings):
        files[f"{CPU}/cpu{n}/topology/thread_siblings_list"] = core
    return files


EIGHT = [str(n) for n in range(8)]
# an Intel hybrid: two fast cores of two threads each, four slow ones
HYBRID = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]
HYBRID_FAST = {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"}
# ARM with two big, two middle and four little cores
CAPACITIES = {
    f"{CPU}/cpu{n}/cpu_capacity": value
    for n, value in enumerate(["1024", "1024", "760", "760", "350", "350", "350", "350"])
}
V2 = {"proc/self/cgroup": "0::/user.slice/job"}
V1 = {"proc/self/cgroup": "5:memory:/a\n3:cpu,cpuacct:/docker/c0ffee\n1:name=systemd:/a"}
V1_FOLDER = "sys/fs/cgroup/cpu"


def v1_quota(folder: str, quota: str) -> dict[str, str]:
    return {
        f"{V1_FOLDER}/{folder}cpu.cfs_quota_us": quota,
        f"{V1_FOLDER}/{folder}cpu.cfs_period_us": "100000",
    }


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize(
    ("files", "count", "limits"),
    [
        (processors("0-7", EIGHT), 8, {"affinity": 8, "cores": 8}),
        (processors("1,4-5", EIGHT), 3, {"affinity": 3, "cores": 3}),
        (processors("0-3", ["0,2", "1,3", "0,2", "1,3"]), 2, {"affinity": 4, "cores": 2}),
        (processors("0-3", []), 4, {"affinity": 4, "cores": 4}),
        (
            processors("0-7", HYBRID) | HYBRID_FAST,
            2,
            {"affinity": 8, "cores": 6, "fast cores": 2},
        ),
        (processors("4-7", HYBRID) | HYBRID_FAST, 4, {"affinity": 4, "cores": 4}),
        (processors("0-7", EIGHT) | CAPACITIES, 4, {"affinity": 8, "cores": 8, "fast cores": 4}),
        (processors("4-7", EIGHT) | CAPACITIES, 4, {"affinity": 4, "cores": 4}),
        (V2 | {"sys/fs/cgroup/user.slice/job/cpu.max": "250000 100000"}, 3, {"quota": 2.5}),
        (
            V2
            | {
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000",
                "sys/fs/cgroup/user.slice/cpu.max": "300000 100000",
                "sys/fs/cgroup/cpu.max": "800000 100000",
            },
            3,
            {"quota": 3},
        ),
        (V2 | {"sys/fs/cgroup/cpu.max": "20000 100000"}, 1, {"quota": 0.2}),
        (V1 | v1_quota("docker/c0ffee/", "150000"), 2, {"quota": 1.5}),
        (V1 | v1_quota("", "400000"), 4, {"quota": 4}),  # as seen inside of a container
        (
            processors("0-7", EIGHT) | V1 | v1_quota("docker/c0ffee/", "-1"),
            8,
            {"affinity": 8, "cores": 8},
        ),
        (
            processors("0-7", EIGHT) | V2 | {"sys/fs/cgroup/cpu.max": "140000 100000"},
            1,
            {"affinity": 8, "quota": 1.4, "cores": 8},
        ),
    ],
)
def test_the_least_of_all_limits_counts(
    tmp_path: Path, files: dict[str, str], count: int, limits: dict[str, float]
) -> None:
    assert default_threads(lay_out(tmp_path, files)) == Threads(count, limits)


@pytest.mark.usefixtures("linux")
def test_files_that_say_nothing_useful_are_left_out(tmp_path: Path) -> None:
    files = processors("", []) | V2 | {"sys/fs/cgroup/cpu.max": "lots"}
    assert default_threads(lay_out(tmp_path, files)).limits == {}
    assert default_threads(lay_out(tmp_path / "empty", V2)).count >= 1


def test_macs_count_their_performance_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 10)
    monkeypatch.setattr(threads, "_sysctl", {b"hw.perflevel0.physicalcpu": 8}.get)
    assert default_threads() == Threads(8, {"cores": 10, "fast cores": 8})
    monkeypatch.setattr(threads, "_sysctl", lambda name: None)  # an Intel Mac
    assert default_threads() == Threads(10, {"cores": 10})


def test_this_machine_allows_at_least_one_thread_and_says_why() -> None:
    found = default_threads()
    assert found.count >= 1
    assert str(found).startswith(f"{found.count} (")
    assert str(Threads(3, {"affinity": 8, "quota": 2.5})) == "3 (affinity 8, quota 2.5)"
