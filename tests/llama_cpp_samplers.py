"""What llama.cpp's own samplers make of a few logits: the cases and their golden results.

    python tests/llama_cpp_samplers.py     writes tests/golden/samplers.json anew

That needs llama-cpp-python (written with 0.3.36), which neither the tests nor CI have. A case is
parameters beside OFF, logits by name, and a text whose ids were seen; its result, the ids that are
kept and the logits that changed. Random choices are left out, except that mirostat learns from
those that were made.
"""

import ctypes
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "samplers.json"

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
STORY = "The cat sat on the mat. The dog sat on the mat. The cat sat on the"
LIST = "cat: one\ncat: two\ncat: one\ncat: two\ncat:"
CHORUS = "la la la la la la la la la la la la la la la la la la la la la la"
# (parameters, logits, text)
CASES: list[tuple[dict[str, Any], str, str]] = [
    *[({"top_k": k}, "mixed", "") for k in (1, 5, 40)],
    *[({"top_p": p}, z, "") for p in (0.1, 0.5, 0.9, 0.99) for z in ("mixed", "flat", "sure")],
    *[({"min_p": p}, z, "") for p in (0.01, 0.1, 0.5) for z in ("mixed", "flat", "sure")],
    *[({"typical_p": p}, z, "") for p in (0.2, 0.5, 0.9) for z in ("mixed", "flat", "sure")],
    *[({"top_n_sigma": n}, z, "") for n in (0.5, 1.0, 2.0) for z in ("mixed", "flat", "sure")],
    *[
        ({"xtc_probability": 1.0, "xtc_threshold": t}, z, "")
        for t in (0.0, 0.02, 0.1, 0.3)
        for z in ("mixed", "flat", "sure")
    ],
    *[({"temperature": t}, "mixed", "") for t in (0.3, 0.8, 1.7)],
    *[
        ({"temperature": t, "dynatemp_range": r, "dynatemp_exponent": e}, z, "")
        for t, r, e in ((1.0, 0.5, 1.0), (0.5, 0.7, 0.5), (1.2, 1.0, 2.0))
        for z in ("mixed", "flat", "sure")
    ],
    ({"repeat_penalty": 1.3}, "words", STORY),
    ({"repeat_penalty": 0.8, "repeat_last_n": 5}, "words", STORY),
    ({"presence_penalty": 0.7, "repeat_last_n": 12}, "words", STORY),
    ({"frequency_penalty": 0.4, "repeat_last_n": -1}, "words", STORY),
    (
        {"repeat_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.2},
        "words",
        STORY,
    ),
    *[
        ({"dry_multiplier": 0.8, **options}, "words", text)
        for text in (STORY, LIST, CHORUS)
        for options in (
            {},
            {"dry_base": 1.1, "dry_allowed_length": 1},
            {"dry_base": 1.0, "dry_allowed_length": 4},
            {"dry_penalty_last_n": 12},
            {"dry_penalty_last_n": -1, "dry_sequence_breakers": []},
            {"dry_sequence_breakers": ["sat on"]},
        )
    ],
    # Of a breaker that spans tokens llama.cpp finds only some: those whose end it cuts into tokens
    # as the text is cut. This is one.
    (
        {
            "dry_multiplier": 0.8,
            "dry_sequence_breakers": ["at. The", "zebra"],
            "dry_allowed_length": 1,
        },
        "words",
        STORY,
    ),
    ({"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}, "words", STORY),
    (
        {"temperature": 0.7, "top_k": 20, "top_p": 0.95, "typical_p": 0.95, "xtc_probability": 1.0},
        "mixed",
        "",
    ),
    (
        {
            "temperature": 1.3,
            "dynatemp_range": 0.4,
            "top_k": 60,
            "top_p": 0.9,
            "min_p": 0.02,
            "typical_p": 0.8,
            "top_n_sigma": 1.5,
            "xtc_probability": 1.0,
            "repeat_penalty": 1.2,
            "frequency_penalty": 0.1,
            "dry_multiplier": 1.5,
        },
        "words",
        STORY,
    ),
]
MIROSTAT = ({"mirostat_tau": 3.0, "mirostat_eta": 0.3}, {"mirostat_tau": 1.0, "mirostat_eta": 1.0})


def logits_named(name: str, vocab_size: int) -> list[float]:
    """No two alike, and of few decimals, so that they are the same everywhere."""
    if name == "words":
        return [(i * 7919 % 1543) / 100 - 8 for i in range(vocab_size)]
    width = {"mixed": 14.0, "flat": 0.5, "sure": 8.0}[name]
    numbers = [round(width * (i * 37 % 61) / 61 - width / 2, 3) for i in range(61)]
    if name == "sure":
        numbers[7] = 9.0
    return numbers


def main() -> None:
    import llama_cpp.llama_cpp as lib

    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    path = ROOT / "edgellama" / "models" / "tiny.gguf"
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    vocab = lib.llama_model_get_vocab(model)
    n_vocab = lib.llama_vocab_n_tokens(vocab)

    def ids_of(text: str) -> list[int]:
        out = (lib.llama_token * 256)()
        n = lib.llama_tokenize(vocab, text.encode(), len(text), out, 256, False, False)
        return list(out[:n])

    def samplers(options: dict[str, Any]) -> list[Any]:
        p = {
            "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "typical_p": 1.0, "top_n_sigma": -1.0,
            "xtc_probability": 0.0, "xtc_threshold": 0.1, "repeat_penalty": 1.0,
            "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2,
            "dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n", ":", '"', "*"],
            **OFF, **options,
        }  # fmt: skip
        breakers = [text.encode() for text in p["dry_sequence_breakers"]]
        last_n = [n if n >= 0 else 4096 for n in (p["repeat_last_n"], p["dry_penalty_last_n"])]
        chain = [
            lib.llama_sampler_init_penalties(
                n_vocab,
                last_n[0],
                p["repeat_penalty"],
                p["frequency_penalty"],
                p["presence_penalty"],
            ),
            lib.llama_sampler_init_dry(
                vocab,
                p["dry_multiplier"],
                p["dry_base"],
                p["dry_allowed_length"],
                last_n[1],
                (ctypes.c_char_p * len(breakers))(*breakers),
                len(breakers),
            ),
            lib.llama_sampler_init_top_n_sigma(p["top_n_sigma"]),
        ]
        if p["top_k"]:
            chain.append(lib.llama_sampler_init_top_k(p["top_k"]))
        return [
            *chain,
            lib.llama_sampler_init_typical(p["typical_p"], 1),
            lib.llama_sampler_init_top_p(p["top_p"], 1),
            lib.llama_sampler_init_min_p(p["min_p"], 1),
            lib.llama_sampler_init_xtc(p["xtc_probability"], p["xtc_threshold"], 1, 1),
            lib.llama_sampler_init_temp_ext(
                p["temperature"], p["dynatemp_range"], p["dynatemp_exponent"]
            ),
        ]

    def candidates(logits: list[float]) -> Any:
        data = (lib.llama_token_data * len(logits))()
        for i, logit in enumerate(logits):
            data[i].id, data[i].logit, data[i].p = i, logit, 0.0
        array = lib.llama_token_data_array()
        array.data, array.size, array.selected, array.sorted = data, len(logits), -1, False
        return array, data

    def left(array: Any) -> dict[int, float]:
        pairs = [(array.data[i].id, array.data[i].logit) for i in range(array.size)]
        return {id: logit for id, logit in sorted(pairs) if logit > -1e30}

    cases = []
    for options, name, text in CASES:
        seen, logits = ids_of(text), logits_named(name, n_vocab)
        array, data = candidates(logits)
        before = [data[i].logit for i in range(len(logits))]
        for sampler in samplers(options):
            for id in seen:
                lib.llama_sampler_accept(sampler, id)
            lib.llama_sampler_apply(sampler, ctypes.byref(array))
        after = left(array)
        changed = {id: round(z, 6) for id, z in after.items() if z != before[id]}
        kept = list(after) if len(after) < len(logits) else "all"
        cases.append(
            {"params": options, "logits": name, "seen": seen, "kept": kept, "changed": changed}
        )
    runs = []
    for options in MIROSTAT:
        sampler = lib.llama_sampler_init_mirostat_v2(
            1, options["mirostat_tau"], options["mirostat_eta"]
        )
        steps = []
        for name in ("mixed", "flat", "sure", "mixed", "flat", "mixed", "mixed", "flat"):
            array, data = candidates(logits_named(name, n_vocab))
            lib.llama_sampler_apply(sampler, ctypes.byref(array))
            chosen = array.data[array.selected].id
            steps.append({"logits": name, "kept": list(left(array)), "chosen": chosen})
        runs.append({"params": options, "steps": steps})
    lines = {
        key: "[\n  " + ",\n  ".join(json.dumps(entry) for entry in entries) + "\n]"
        for key, entries in {"cases": cases, "mirostat": runs}.items()
    }
    body = ",\n".join(f'"{key}": {value}' for key, value in lines.items())
    GOLDEN.write_text("{\n" + body + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
