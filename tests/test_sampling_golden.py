"""Every link of the chain against llama.cpp's own, on results recorded from it."""

import json
from typing import Any

import numpy as np
import pytest
from llama_cpp_samplers import GOLDEN, OFF, ROOT, logits_named

from edgellama.gguf import GGUFFile
from edgellama.sampling import Candidates, SamplingParams
from edgellama.sampling.chain import build
from edgellama.sampling.memory import Memory
from edgellama.sampling.mirostat import Mirostat, mirostat
from edgellama.tokenizer import Tokenizer, load_tokenizer

RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(GGUFFile(ROOT / "edgellama" / "models" / "tiny.gguf").metadata)


def all_candidates(name: str, vocab_size: int) -> Candidates:
    logits = np.array(logits_named(name, vocab_size), np.float32)
    return Candidates(np.arange(len(logits)), logits)


def name_of(case: dict[str, Any]) -> str:
    options = " ".join(f"{key}={value}" for key, value in case["params"].items())
    return f"{options} {case['logits']}"


@pytest.mark.parametrize("case", RECORDED["cases"], ids=name_of)
def test_the_chain_leaves_what_llama_cpp_leaves(case: dict[str, Any], tokenizer: Tokenizer) -> None:
    params = SamplingParams(**(OFF | case["params"]))
    memory = Memory(params, case["seen"], tokenizer)
    memory.excludes_top = True  # recorded with xtc_probability 1 or 0
    before = all_candidates(case["logits"], tokenizer.vocab_size)
    after = before
    for step in build(params, memory):
        after = step(after)

    kept = before.ids.tolist() if case["kept"] == "all" else case["kept"]
    assert sorted(after.ids.tolist()) == kept
    changed = {int(id): logit for id, logit in case["changed"].items()}
    expected = np.array([changed.get(id, before.logits[id]) for id in after.ids.tolist()])
    # Temperature shifts ours so that the best is 0, which no probability feels. Up to 100 in size
    # and a handful of operations in float32: some units in the last place, 8e-6.
    np.testing.assert_allclose(
        after.logits - after.logits.max(), expected - expected.max(), atol=3e-5, rtol=1e-6
    )


@pytest.mark.parametrize("run", RECORDED["mirostat"], ids=lambda run: str(run["params"]))
def test_mirostat_keeps_and_learns_what_llama_cpp_does(run: dict[str, Any]) -> None:
    state = Mirostat(run["params"]["mirostat_tau"], run["params"]["mirostat_eta"])
    for step in run["steps"]:
        kept = mirostat(all_candidates(step["logits"], 0), state.mu)
        assert sorted(kept.ids.tolist()) == step["kept"]
        weights = np.exp(kept.logits.astype(np.float64))
        state.learn(float(weights[kept.ids == step["chosen"]][0] / weights.sum()))
