"""How many threads suit this machine: the least of what it allows.

    affinity      processors that the process may run on (taskset, cpuset, containers)
    quota         processor time that control groups grant (docker --cpus, Kubernetes limits)
    cores         physical cores: two threads on one get in each other's way
    fast cores    of these, the ones that are not much slower than the fastest

All that Linux says of it lies in files below one root, so a test can lay out any machine.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
FAST = 0.5  # of the fastest core's capacity; work is shared out by who comes first


@dataclass(frozen=True, slots=True)
class Threads:
    """A number of threads, and the limits that it is the least of."""

    count: int
    limits: dict[str, float]

    def __str__(self) -> str:
        reasons = ", ".join(f"{name} {limit:g}" for name, limit in self.limits.items())
        return f"{self.count} ({reasons})" if reasons else f"{self.count}"


def default_threads(root: Path = ROOT) -> Threads:
    """What suits the machine; limits that cannot be learnt are left out. At least one thread."""
    limits = _linux(root) if sys.platform.startswith("linux") else _elsewhere()
    least = min(limits.values(), default=os.cpu_count() or 1)
    return Threads(max(1, math.floor(least + 0.5)), limits)


def _elsewhere() -> dict[str, float]:
    """The limits on macOS, Windows and others."""
    import psutil

    limits: dict[str, float] = {}
    if sys.platform == "win32":
        limits["affinity"] = len(psutil.Process().cpu_affinity() or ()) or math.inf
    limits["cores"] = psutil.cpu_count(logical=False) or math.inf
    if sys.platform == "darwin":
        limits["fast cores"] = _sysctl(b"hw.perflevel0.physicalcpu") or math.inf
    return {name: limit for name, limit in limits.items() if limit < math.inf}


def _sysctl(name: bytes) -> int | None:
    """A number that the kernel of macOS keeps; None on Macs without it."""
    value, size = ctypes.c_int32(), ctypes.c_size_t(4)
    find = ctypes.CDLL(None).sysctlbyname
    failed = find(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else value.value


def _linux(root: Path) -> dict[str, float]:
    limits: dict[str, float] = {}
    cpus = root / "sys/devices/system/cpu"
    allowed = _allowed(root)
    if allowed:
        limits["affinity"] = len(allowed)
    quota = min(_quotas(root), default=None)
    if quota is not None:
        limits["quota"] = quota
    # a core is known by the processors that it shows; one that does not say so is its own
    cores = {_read(cpus / f"cpu{n}/topology/thread_siblings_list") or str(n): n for n in allowed}
    if cores:
        limits["cores"] = len(cores)
    fast = _fast(root, allowed) & set(cores.values())
    if fast and len(fast) < len(cores):
        limits["fast cores"] = len(fast)
    return limits


def _allowed(root: Path) -> set[int]:
    """Numbers of the processors that this thread may run on; none if that is not told."""
    for line in (_read(root / "proc/thread-self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return _numbers(value)
    return set(os.sched_getaffinity(0)) if root == ROOT else set()


def _fast(root: Path, allowed: set[int]) -> set[int]:
    """The processors on performance cores: as Intel lists them, or by the capacity ARM gives."""
    if listed := _read(root / "sys/devices/cpu_core/cpus"):
        return allowed & _numbers(listed)
    cpus = root / "sys/devices/system/cpu"
    capacities = {n: float(_read(cpus / f"cpu{n}/cpu_capacity") or "nan") for n in allowed}
    most = max(capacities.values(), default=0.0)
    return {n for n, capacity in capacities.items() if capacity >= FAST * most}


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each control group above this process grants.

    A container sees its own group at the root of the mount, so a path that is not there is looked
    for from its end to its beginning.
    """
    groups = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if not controllers:  # version 2
                values = (_read(groups / part / "cpu.max") or "").split()
            elif "cpu" in controllers.split(","):
                folder = groups / "cpu" / part
                names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                values = [_read(folder / name) or "" for name in names]
            else:
                break
            # "max 100000" and "-1" mean no limit
            if len(values) == 2 and all(value.isdigit() and int(value) > 0 for value in values):
                yield int(values[0]) / int(values[1])


def _read(path: Path) -> str | None:
    """What stands in a small file, without the end of its line; None if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _numbers(text: str) -> set[int]:
    """The set that Linux writes as "0-3,8,10-11"."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return found
