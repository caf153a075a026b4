"""Format: how one GGML tensor type stores a row of numbers, and the kernels that compute with it.

A tensor (rows, cols) is stored as (rows, cols / block_size * type_size) bytes, row-major: each row
is a run of blocks, each block packs `block_size` numbers into `type_size` bytes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .entry import Entry
    from .grid import Grid, Layout
    from .kernels import ProductKernels

Blocks = npt.NDArray[np.uint8]  # (n_blocks, type_size)
Values = npt.NDArray[np.float32]  # (n_blocks, block_size)

CHUNK = 1 << 16  # numbers converted at a time, so that the temporaries of numpy stay in the cache
MANY = 1 << 18  # numbers for which a compiled kernel is worth its loading


@dataclass(frozen=True)
class Format:
    """One tensor type. The two block functions are plain numpy: they define the format."""

    name: str
    ggml_type: int
    block_size: int
    type_size: int
    quantize_blocks: Callable[[Values], Blocks] | None  # None: it is read, and not made here
    dequantize_blocks: Callable[[Blocks], Values]
    layout: "Layout | None" = None  # of scales and codes; None: codes cannot be chosen freely

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size

    @cached_property
    def products(self) -> "ProductKernels":
        """The compiled kernels of this format (imported when first asked for: so is LLVM)."""
        from .products import PRODUCTS

        return PRODUCTS[self.name]

    @property
    def pack_entry(self) -> "Entry | None":
        """The compiled quantizer; None where numpy is quick, or nothing is made."""
        if self.quantize_blocks is None and self._can_search:
            from .search_kernels import SEARCHES

            return SEARCHES[self.name]
        return self.products.pack

    @cached_property
    def _pack(self) -> Callable[[int, int, int], None] | None:
        """The compiled quantizer (it releases the GIL); None without one or with the JIT off."""
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return None
        pack = self.products.pack
        return None if pack is None else pack.call

    @property
    def can_quantize(self) -> bool:
        return self.quantize_blocks is not None or self._can_search

    @property
    def _can_search(self) -> bool:
        return self.layout is not None and self.layout.write_scales is not None

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row of `cols` numbers; ValueError when blocks do not divide it."""
        if cols % self.block_size:
            raise ValueError(
                f"{cols} columns do not divide by the {self.name} block size {self.block_size}"
            )
        return cols // self.block_size * self.type_size

    def quantize(
        self, x: npt.ArrayLike, importance: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.uint8]:
        """(rows, cols) finite float32 -> (rows, row_bytes) uint8, each row by itself.

        importance: (cols,) >= 0, what a column's squared errors count (the mean square of the input
        channel). It guides the search for scales; Q8_0 and the dense types do without one.
        Q8_0, Q5_0, Q5_1, Q4_0, Q4_1 and the dense types are bit for bit gguf-py's when no
        importance is given.
        Raises ValueError for other shapes or importance, and for a format that is only read.
        """
        values = np.ascontiguousarray(x, dtype=np.float32)
        if values.ndim != 2:
            raise ValueError(f"expected (rows, cols), found shape {values.shape}")
        rows, cols = values.shape
        packed = np.empty((rows, self.row_bytes(cols)), np.uint8)
        if self._can_search and (importance is not None or self.quantize_blocks is None):
            from .searches import quantize_rows

            quantize_rows(self, values, importance, packed)
            return packed
        if self.quantize_blocks is None:
            raise ValueError(f"{self.name} weights can be read but not made; choose another type")
        if values.size >= MANY and (pack := self._pack) is not None:
            pack(values.ctypes.data, values.size // self.block_size, packed.ctypes.data)
            return packed
        source = values.reshape(-1, self.block_size)
        target = packed.reshape(-1, self.type_size)
        step = max(1, CHUNK // self.block_size)
        for i in range(0, len(source), step):
            target[i : i + step] = self.quantize_blocks(source[i : i + step])
        return packed

    def dequantize(self, packed: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(rows, row_bytes) uint8 -> (rows, cols) float32."""
        data = np.ascontiguousarray(packed, dtype=np.uint8)
        if data.ndim != 2:
            raise ValueError(f"expected (rows, row_bytes), found shape {data.shape}")
        rows, row_bytes = data.shape
        if row_bytes % self.type_size:
            raise ValueError(
                f"rows of {row_bytes} bytes do not divide by the {self.name} block of "
                f"{self.type_size} bytes"
            )
        values = np.empty((rows, row_bytes // self.type_size * self.block_size), np.float32)
        source = data.reshape(-1, self.type_size)
        target = values.reshape(-1, self.block_size)
        step = max(1, CHUNK // self.block_size)
        for i in range(0, len(source), step):
            target[i : i + step] = self.dequantize_blocks(source[i : i + step])
        return values

    def grid(self, packed: npt.ArrayLike) -> "Grid":
        """The numbers that (rows, row_bytes) packed rows can hold with the scales they have.

        Raises ValueError for a format whose weights are no function of a scale and a code.
        """
        from .grid import make_grid

        return make_grid(self._layout, np.ascontiguousarray(packed, np.uint8), self.type_size)

    def with_codes(self, packed: npt.ArrayLike, codes: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Packed rows with the same scales and other codes: (rows, cols) whole numbers.

        Codes are those of `grid`, lowest..highest; ValueError for others.
        """
        from .grid import replace_codes

        rows = np.ascontiguousarray(packed, np.uint8)
        return replace_codes(self._layout, rows, codes, self.block_size, self.type_size)

    @property
    def _layout(self) -> "Layout":
        if self.layout is None:
            raise ValueError(f"{self.name} has no grid of scales and codes")
        return self.layout
