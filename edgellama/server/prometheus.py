"""Figures in Prometheus' text format, and those of the process that has the sockets.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metric(name: str, kind: str, help: str, samples: list[tuple[str, Any]]) -> Iterator[str]:
    """The lines of one metric; samples: (labels, value)."""
    yield f"# HELP edgellama_{name} {help}."
    yield f"# TYPE edgellama_{name} {kind}"
    for labels, value in samples:
        yield f"edgellama_{name}{labels} {value}"


def escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def process_lines(prefix: str = "") -> Iterator[str]:
    """What this process takes."""
    process = psutil.Process()
    with process.oneshot():
        rss, threads = process.memory_info().rss, process.num_threads()
    yield from metric(f"{prefix}resident_memory_bytes", "gauge", "Memory in use", [("", rss)])
    yield from metric(f"{prefix}threads", "gauge", "Threads of the process", [("", threads)])


@dataclass(slots=True)
class Counts:
    """What is counted where the sockets are."""

    answered: Counter[int] = field(default_factory=Counter)  # requests by status
    connections: Collection[object] = ()  # that are open

    def lines(self) -> Iterator[str]:
        samples = [(f'{{status="{status}"}}', n) for status, n in sorted(self.answered.items())]
        yield from metric("http_requests_total", "counter", "HTTP requests by status", samples)
        yield from metric("connections", "gauge", "Open connections", [("", len(self.connections))])
