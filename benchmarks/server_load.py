"""What `edgellama serve` does under load, asked over sockets by a process of its own.

    python benchmarks/server_load.py                       1 client, then 16 at once
    python benchmarks/server_load.py model.gguf -n 4       the same with a model and 4 clients
    python benchmarks/server_load.py --soak 10000          requests of every kind, good and bad

Load: each client streams one answer after another. One client and many take turns; of each the
fastest round counts, which is the one that other programs disturbed least. Printed are tokens per
second in all, the ratio of the two, and how much longer than the mean a client waited at worst.

Soak: answers, streams, embeddings, broken bodies, cut heads, and clients who leave at a random
moment. Memory, threads and descriptors of the server are compared with what they were after the
first tenth, and the answer to one fixed request with itself.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import psutil

HOST = "127.0.0.1"
CHAT = "/v1/chat/completions"
WRITE_ON = "root ::= [a-z ]{4000}"  # a text that does not end by itself


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", help="default: the model that ships with edgellama")
    parser.add_argument("-n", "--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--answers", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the server; default: as it chooses")
    parser.add_argument("--soak", type=int, metavar="N", help="send N requests of every kind")
    args = parser.parse_args()
    parallel = 4 if args.soak else args.clients
    with server(args.model, parallel, args.threads) as (process, port):
        if args.soak:
            return asyncio.run(soak(process, port, args.soak, args.clients))
        asyncio.run(load(process, port, args))
    return 0


@contextmanager
def server(
    model: str | None, parallel: int, threads: int | None
) -> Iterator[tuple[psutil.Process, int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "edgellama", "serve", "--port", "0"]
    command += ["--ctx", "1024", "--parallel", str(parallel), "--queue", "64"]
    with subprocess.Popen(
        command + (["--threads", str(threads)] if threads else []) + ([model] if model else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)/v1", process.stdout.readline())
            assert found, "the server did not start"
            yield psutil.Process(process.pid), int(found[1])
        finally:
            process.terminate()


def raw(path: str, body: bytes, *, method: str = "POST") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode() + body


async def ask(port: int, data: bytes) -> bytes:
    """The whole answer to a request, head and all."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


# Load.


async def load(process: psutil.Process, port: int, args: argparse.Namespace) -> None:
    alone, together = [], []
    unfairness = []
    await clients(port, 1, 2, args.tokens)  # warm
    for _ in range(args.rounds):
        for n_clients, rounds in ((1, alone), (args.clients, together)):
            n_answers = args.answers if n_clients > 1 else 4 * args.answers
            began = cpu_seconds(process)
            speed, waits = await clients(port, n_clients, n_answers, args.tokens)
            cpu_ms = 1e3 * (cpu_seconds(process) - began) / (n_clients * n_answers * args.tokens)
            rounds.append((speed, cpu_ms))
            unfairness.append(max(waits) * len(waits) / sum(waits))
    for n_clients, rounds in ((1, alone), (args.clients, together)):
        speed, cpu_ms = max(rounds)
        print(f"{n_clients:3} at once  {speed:7.1f} tokens/s, {cpu_ms:.2f} ms CPU for each")
    print(f"{max(together)[0] / max(alone)[0]:.2f} x one client's speed")
    print(f"the slowest client took {max(unfairness):.2f} x the mean")


def cpu_seconds(process: psutil.Process) -> float:
    """Of the server and the process that computes for it."""
    times = [part.cpu_times() for part in (process, *process.children())]
    return float(sum(time.user + time.system for time in times))


async def clients(
    port: int, n_clients: int, n_answers: int, n_tokens: int
) -> tuple[float, list[float]]:
    """(tokens per second in all, seconds that each client took)."""
    waits: list[float] = []

    async def client(number: int) -> int:
        total = 0
        began = perf_counter()
        for i in range(n_answers):
            say = f"Tell me a story, number {number * n_answers + i}."
            body = {
                "messages": [{"role": "user", "content": say}],
                "max_tokens": n_tokens,
                "stream": True,
                "seed": i,
                "logit_bias": [["<|eot_id|>", False], ["<|end_of_text|>", False]],
            }
            answer = await ask(port, raw(CHAT, json.dumps(body).encode()))
            found = re.search(rb'"predicted_n":(\d+)', answer)
            assert found, answer[-500:]
            total += int(found[1])
        waits.append(perf_counter() - began)
        return total

    began = perf_counter()
    totals = await asyncio.gather(*(client(number) for number in range(n_clients)))
    return sum(totals) / (perf_counter() - began), waits


# Soak.

GOLDEN = raw(
    "/v1/completions",
    json.dumps({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}).encode(),
)


def random_request(rng: random.Random) -> tuple[str, bytes]:
    """(kind, bytes)."""
    words = " ".join(rng.choices(["cat", "dog", "sun", "five", "once", "é"], k=rng.randint(1, 40)))
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": words}],
        "max_tokens": rng.randint(1, 12),
        "seed": rng.randrange(1000),
        "stream": rng.random() < 0.5,
    }
    kind = rng.choice(["chat", "chat", "leave", "leave", "embed", "tokens", "bad", "cut", "schema"])
    if kind == "embed":
        return kind, raw("/v1/embeddings", json.dumps({"input": words}).encode())
    if kind == "tokens":
        return kind, raw("/tokenize", json.dumps({"content": words}).encode())
    if kind == "leave":
        body |= {"max_tokens": 400, "grammar": WRITE_ON}
    if kind == "schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"enum": [rng.randrange(1000), words]}},
        }
        body["max_tokens"] = 100
    if kind == "bad":
        body |= rng.choice(
            [{"top_p": 7}, {"what": 1}, {"n": 10**6}, {"model": "x"}, {"tools": 1}, {"regex": "("}]
        )
        text = rng.choice([json.dumps(body).encode(), b"{" * 500, b'{"a":NaN}', b"\xff"])
        return kind, raw(CHAT, text)
    data = raw(CHAT, json.dumps(body).encode())
    return kind, data[: rng.randrange(len(data))] if kind == "cut" else data


async def soak(process: psutil.Process, port: int, n_requests: int, n_clients: int) -> int:
    golden = told(await ask(port, GOLDEN))
    rng = random.Random(0)
    statuses: Counter[str] = Counter()
    left = n_requests
    marks: list[dict[str, float]] = []

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            kind, data = random_request(rng)
            statuses[f"{kind} {await send(port, kind, data, rng)}"] += 1

    began = perf_counter()
    tenth = n_requests // 10
    for _ in range(10):
        left = tenth
        await asyncio.gather(*(client() for _ in range(n_clients)))
        await asyncio.sleep(1)  # for those who left to be forgotten
        marks.append(taken(process))
        print(f"{len(marks) * tenth:7,} requests  {marks[-1]}", flush=True)
    metrics = (await ask(port, raw("/metrics", b"", method="GET"))).decode()
    busy = [int(n) for n in re.findall(r"requests_(?:active|queued)\{.*\} (\d+)", metrics)]
    print(f"{n_requests:,} requests in {perf_counter() - began:.0f} s")
    print(dict(sorted(statuses.items())))
    same = told(await ask(port, GOLDEN)) == golden
    flat = all(marks[-1][name] <= marks[0][name] + 2 for name in ("threads", "descriptors"))
    print(f"active or queued: {sum(busy)}; the fixed answer is the same: {same}; flat: {flat}")
    return 0 if same and flat and not sum(busy) else 1


def taken(process: psutil.Process) -> dict[str, float]:
    """What the server and the process that computes for it take."""
    parts = (process, *process.children())
    return {
        "MB": sum(part.memory_info().rss for part in parts) / 1e6,
        "threads": sum(part.num_threads() for part in parts),
        "descriptors": sum(part.num_fds() if hasattr(part, "num_fds") else 0 for part in parts),
    }


async def send(port: int, kind: str, data: bytes, rng: random.Random) -> str:
    """The status of the answer; "-" if none was waited for."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(data)
        if kind in ("leave", "cut"):
            await asyncio.sleep(rng.random() * 0.05)
            if rng.random() < 0.3:
                writer.transport.abort()
            return "-"
        answer = await reader.read()
        return answer.split(b" ", 2)[1].decode() if answer else "nothing"
    finally:
        writer.close()


def told(answer: bytes) -> str:
    text: str = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"]
    return text


if __name__ == "__main__":
    sys.exit(main())
