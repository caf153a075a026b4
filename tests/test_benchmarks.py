"""The benchmarks' own arithmetic: ledger, table and figure, shares, and a comparison run small."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgellama.random_llama import Shape, write_random_llama

ROOT = Path(__file__).parents[1]
SMALL = Shape(256, 2, 4, 2, 64, 512, tied=True, rope_factor=8, vocab_size=1024)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts as modules: they import each other from their own folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import comparison
    import ledger
    import plot
    import prefix_cache
    import side
    import start
    import tile_peak
    import under_load

    modules: list[ModuleType] = [
        comparison, ledger, plot, prefix_cache, side, start, tile_peak, under_load,
    ]  # fmt: skip
    return SimpleNamespace(**{module.__name__: module for module in modules})


def row(work: str = "decode", **changes: Any) -> dict[str, Any]:
    speeds = {"edgellama": 30.0, "llama.cpp": 20.0}
    found = {
        "date": "2026-01-02", "commit": "abc1234", "command": "python x.py", "cpu": "a CPU",
        "n_cpus": 2, "load": 0.1, "model": "llama-3.2-1b Q4_0", "weight_bytes": 10**9,
        "work": work, "n": 16, "depth": 0, "busy": 0, "n_threads": 2,
        "tokens_per_s": speeds, "ratio": {"llama.cpp": 1.5}, "read_gb_s": 40.0,
        "peak_rss": {"edgellama": 2 * 10**9, "llama.cpp": None},
        "private_rss": {"edgellama": 10**8, "llama.cpp": None},
        "builds": {"edgellama": "edgellama 9, avx2", "llama.cpp": "peer 1"},
    }  # fmt: skip
    if work == "decode":
        found |= {"ceiling": 40.0, "share_of_ceiling": {"edgellama": 0.75, "llama.cpp": 0.5}}
    return found | changes


def bars(svg: str) -> list[float]:
    """The widths of the bars of a figure, in pixels."""
    root = ET.fromstring(svg)
    rects = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("height") == "15"]
    return [float(r.get("width", "0")) for r in rects]


def test_what_is_appended_is_read_again_without_the_single_samples(
    benchmarks: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    benchmarks.ledger.append([row(samples={"edgellama": [29.0, 31.0]})], path)
    benchmarks.ledger.append([row("prompt")], path)
    assert benchmarks.ledger.read(path) == [row(), row("prompt")]


def test_a_recorded_command_names_no_folders(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/x/vs.py", "/home/me/m.gguf", "--rounds", "3"])
    assert benchmarks.ledger.command() == "python benchmarks/vs.py m.gguf --rounds 3"


def test_the_newest_figures_of_the_last_machine_are_shown(benchmarks: Any) -> None:
    newest, prompt = row(commit="new"), row("prompt")
    elsewhere = row(cpu="another")
    loaded, deep, fewer = row(busy=2), row(depth=512), row(n_threads=1)
    chosen = benchmarks.plot.choose([elsewhere, row(), prompt, newest, loaded, deep, fewer])
    assert chosen.rows == [newest, prompt]


def test_sides_that_did_not_run_together_are_kept_apart(benchmarks: Any) -> None:
    other = row(tokens_per_s={"edgellama": 31.0, "openvino": 9.0}, ratio={"openvino": 3.4})
    chosen = benchmarks.plot.choose([row(), other])
    assert chosen.rows == [row(), other]
    assert chosen.sides == ["edgellama", "llama.cpp", "openvino"]


def test_bars_are_as_long_as_the_figures_say(benchmarks: Any) -> None:
    ours, peer = bars(benchmarks.plot.draw(benchmarks.plot.choose([row()])))
    assert ours / peer == pytest.approx(30 / 20, abs=1e-3)
    # the ceiling, 40, is the longest thing and must still fit
    assert ours * 40 / 30 <= benchmarks.plot.WIDTH


def test_the_table_has_every_figure(benchmarks: Any) -> None:
    table = benchmarks.plot.readme_table(benchmarks.plot.choose([row(), row("prompt")]))
    assert table.splitlines() == [
        "| 2 threads, a CPU, 2026-01-02 | edgellama | llama.cpp |",
        "|---|---|---|",
        "| llama-3.2-1b Q4_0, decode 16 | 30.0 tok/s (75%) | 20.0 tok/s (50%) |",
        "| llama-3.2-1b Q4_0, prompt 16 | 30.0 tok/s | 20.0 tok/s |",
        "| llama-3.2-1b Q4_0, private memory | 100 MB |  |",
    ]


def test_a_readme_without_a_place_for_the_table_is_refused(benchmarks: Any) -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        benchmarks.plot.with_table("# edgellama\n", "| a |")


def test_readme_and_figure_are_those_of_the_ledger(benchmarks: Any) -> None:
    chosen = benchmarks.plot.choose(benchmarks.ledger.read())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert benchmarks.plot.readme_table(chosen) in readme
    assert benchmarks.plot.with_table(readme, benchmarks.plot.readme_table(chosen)) == readme
    figure = (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
    assert figure == benchmarks.plot.draw(chosen)


@pytest.mark.parametrize(
    ("n_cpus", "n_threads", "busy", "share"),
    [(2, 2, 2, 1 / 2), (2, 2, 4, 1 / 3), (2, 1, 1, 1.0), (4, 2, 6, 1 / 2), (8, 2, 2, 1.0)],
)
def test_a_fair_share_is_what_equal_time_leaves(
    benchmarks: Any, n_cpus: int, n_threads: int, busy: int, share: float
) -> None:
    assert benchmarks.under_load.fair_share(n_cpus, n_threads, busy) == share


def test_shares_are_of_the_quiet_speed_of_the_same_threads(benchmarks: Any) -> None:
    rows = [row(), row(busy=2, tokens_per_s={"edgellama": 12.0, "llama.cpp": 1.0})]
    rows += [row(n_threads=1, tokens_per_s={"edgellama": 5.0, "llama.cpp": 5.0})]
    benchmarks.under_load.add_shares(rows)
    assert rows[1]["share_of_fair"] == {"edgellama": 0.8, "llama.cpp": 0.1}
    assert "share_of_fair" not in rows[0]


def test_what_a_token_reads_is_all_but_an_untied_embedding(benchmarks: Any, tmp_path: Path) -> None:
    sizes = {}
    for name, tied in (("tied", True), ("untied", False)):
        path = tmp_path / name
        shape = Shape(256, 2, 4, 2, 64, 512, tied=tied, rope_factor=1, vocab_size=1024)
        write_random_llama(path, shape, "q4_0", name="small")
        model = benchmarks.comparison.Model.read(path)
        assert model.label == "small Q4_0+Q6_K"
        assert model.kv_bytes == 2 * 2 * 64 * 2 * 2  # layers, heads, width, keys and values, bytes
        sizes[name] = model.weight_bytes
    assert sizes["tied"] == sizes["untied"]


def test_a_side_keeps_the_beginning_of_its_text(benchmarks: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    class Recorded(benchmarks.side.StepByStep):  # type: ignore[misc]
        def forward(self, ids: Any, start: int) -> Any:
            assert list(ids) == list(self._ids[start : start + len(ids)])
            seen.append((start, len(ids)))

        def rewind(self, length: int) -> None:
            seen.append(("rewind", length))

    side = Recorded(64, 1000)
    seen.clear()
    side.measure("prompt", 4, 20)
    side.measure("decode", 2, 20)
    side.measure("prompt", 4, 30)
    assert seen == [
        ("rewind", 9), (9, 11), (20, 4),  # after the warm-up
        ("rewind", 20), ("rewind", 20), (20, 1), (21, 1), (22, 1),
        ("rewind", 23), (23, 7), (30, 4),
    ]  # fmt: skip


def test_busy_processes_end_with_the_work(benchmarks: Any) -> None:
    import psutil

    before = psutil.Process().children()
    with benchmarks.comparison.beside(2):
        busy = [child for child in psutil.Process().children() if child not in before]
        assert len(busy) == 2
    assert not [process for process in busy if process.is_running()]


def test_a_comparison_runs_and_reports(
    benchmarks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.gguf"
    write_random_llama(path, SMALL, "f32", name="small")
    comparison = benchmarks.comparison
    model = comparison.Model.read(path)
    works = [comparison.Work("decode", 4, 1, depth) for depth in (0, 16)]
    works.append(comparison.Work("prompt", 8, 1))
    specs = [comparison.Spec("edgellama", sys.executable, path)]
    rows = comparison.compare(specs, works, model, rounds=2)
    assert [comparison.work_of(found) for found in rows] == works
    for found in rows:
        [samples] = found["samples"].values()
        assert len(samples) == 2
        assert found["tokens_per_s"]["edgellama"] > 0
        assert ("ceiling" in found) == (found["work"] == "decode")
    # a deeper token reads keys and values of 16 more
    near, far = rows[0], rows[1]
    read = model.weight_bytes + 2 * model.kv_bytes
    assert near["ceiling"] == pytest.approx(near["read_gb_s"] * 1e9 / read, rel=1e-2)
    read += 16 * model.kv_bytes
    assert far["ceiling"] == pytest.approx(far["read_gb_s"] * 1e9 / read, rel=1e-2)
    options = SimpleNamespace(json=tmp_path / "all.json", record=False)
    comparison.report(rows, options)
    assert "| decode 4 behind 16, 1 thread |" in capsys.readouterr().out
    assert json.loads(options.json.read_text()) == rows


def test_a_start_is_timed_until_it_says_ready(benchmarks: Any) -> None:
    ready = benchmarks.start.READY
    assert benchmarks.start.seconds_until_ready(f"import time; time.sleep(0.2); {ready}") >= 0.2
    with pytest.raises(SystemExit, match="a start failed: "):
        benchmarks.start.seconds_until_ready("raise ValueError")


def test_a_second_start_takes_the_prompt_from_the_first(
    benchmarks: Any, tiny_llama: Path, tmp_path: Path
) -> None:
    first, second = (benchmarks.prefix_cache.start(tiny_llama, tmp_path, 300) for _ in range(2))
    assert (first.kept, second.kept) == (0, 256)
    assert second.token == first.token
    assert 0 < second.prompt_s < second.start_s


@pytest.mark.parametrize("name", ["Q4_0", "F32"])
def test_kernel_peaks_are_positive(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from edgellama.quant import find_format

    monkeypatch.setattr(benchmarks.tile_peak, "ROUND_S", 0.001)
    assert benchmarks.tile_peak.tile_peak(find_format(name), 1) > 1e8
    assert benchmarks.tile_peak.dot_peak(find_format(name), 1) > 1e8
