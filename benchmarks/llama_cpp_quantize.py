"""llama.cpp's quantizer, run in its own environment by the benchmarks that compare with it.

    python llama_cpp_quantize.py IN.gguf OUT.gguf TYPE N_THREADS [IMPORTANCE.npz]

IMPORTANCE.npz holds, by the name of a matrix, the (cols,) mean squares of its inputs. What
llama.cpp logs goes to standard error.
"""

import ctypes
import sys
from typing import Any

import numpy as np


def load_importance(llama_cpp: Any, path: str) -> Any:
    """An array of llama.cpp's entries; one without a name ends it."""
    columns = np.load(path)
    entries = (llama_cpp.llama_model_imatrix_data * (len(columns.files) + 1))()
    for entry, name in zip(entries, columns.files, strict=False):
        weights = columns[name].astype(np.float32)
        entry.name = name.encode()
        entry.data = (ctypes.c_float * weights.size)(*weights)
        entry.size = weights.size
    return entries


def main() -> None:
    import llama_cpp.llama_cpp as llama_cpp

    source, output, type, n_threads, *importance = sys.argv[1:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type}")
    params.nthread = int(n_threads)
    if importance:
        params.imatrix = load_importance(llama_cpp, importance[0])
    if llama_cpp.llama_model_quantize(source.encode(), output.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp did not quantize {source}")


if __name__ == "__main__":
    main()
