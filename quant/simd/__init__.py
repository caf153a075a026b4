"""The only files that speak LLVM: vectors as numba values, byte products, atomics, CPU tiers."""
