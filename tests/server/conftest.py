"""Fixtures: servers and OpenAI's own client for them."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from running_server import Running


@pytest.fixture
def start_server() -> Iterator[Callable[..., Running]]:
    """start_server(api_keys=..., ...) -> Running; stopped after the test."""
    running: list[Running] = []

    def start(**settings: Any) -> Running:
        running.append(Running(**settings))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """The small model that ships with edgellama, four answers at once; shared by all tests."""
    running = Running()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client
