"""The only files that speak LLVM: vectors as numba values, products of bytes, atomics, CPU tiers."""
