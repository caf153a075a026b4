"""The kernels of each format, by name: their modules import numba, most starts do without it."""

from functools import cache

from .entry import Entry
from .kernels import ProductKernels


@cache  # formats share some
def _entry(module: str, function: str) -> Entry:
    return Entry(f"{__package__}.{module}", function)


def _own(
    module: str,
    suffix: str = "",
    *,
    quantized: bool = True,
    pack: bool = False,
    widen: bool = False,
    always_tile: bool = False,
) -> ProductKernels:
    """All of the format's own: dot, tile and unpack, and what else it has, named with a suffix."""
    dot, tile, unpack = (_entry(module, kind + suffix) for kind in ("dot", "tile", "unpack"))
    return ProductKernels(
        dot,
        tile,
        unpack,
        _entry(module, "pack" + suffix) if pack else None,
        quantized=quantized,
        widen=_entry(module, "widen" + suffix) if widen else None,
        batch=tile if always_tile else None,
    )


def _unpacked(module: str, unpack: str) -> ProductKernels:
    """Those of all such formats, by the format's `unpack`, which uses no scratch."""
    dot, tile = _entry("unpacked_kernels", "dot"), _entry("unpacked_kernels", "tile")
    return ProductKernels(dot, tile, _entry(module, unpack), None, quantized=False)


PRODUCTS = {
    # full weights are for full precision, on every tier
    "F32": _own("dense_kernels", "_f32", quantized=False, always_tile=True),
    "F16": _own("dense_kernels", "_f16", quantized=False, widen=True),
    "BF16": _own("dense_kernels", "_bf16", quantized=False, widen=True),
    "Q8_0": _own("q8_0_kernels", pack=True, widen=True),
    "Q6_K": _own("q6_k_kernels", widen=True),
    "Q5_K": _own("q5_k_kernels", widen=True),
    "Q5_1": _own("legacy_kernels", "_q5_1", pack=True, widen=True),
    "Q5_0": _own("legacy_kernels", "_q5_0", pack=True, widen=True),
    "Q4_K": _own("q4_k_kernels", widen=True),
    "Q4_1": _own("legacy_kernels", "_q4_1", pack=True, widen=True),
    "Q4_0": _own("q4_0_kernels", pack=True, widen=True),
    "Q3_K": _own("q3_k_kernels", widen=True),
    "Q2_K": _own("q2_k_kernels", widen=True),
    "IQ4_NL": _own("iq4_kernels", "_iq4_nl", widen=True),
    "IQ4_XS": _own("iq4_kernels", "_iq4_xs", widen=True),
    "MXFP4": _unpacked("mxfp4_kernels", "unpack"),
    "IQ3_S": _unpacked("iq_kernels", "unpack_iq3_s"),
    "IQ3_XXS": _unpacked("iq_kernels", "unpack_iq3_xxs"),
    "IQ2_S": _unpacked("iq_kernels", "unpack_iq2_s"),
    "IQ2_XS": _unpacked("iq_kernels", "unpack_iq2_xs"),
    "IQ2_XXS": _unpacked("iq_kernels", "unpack_iq2_xxs"),
    "TQ2_0": _unpacked("ternary_kernels", "unpack_tq2_0"),
    "TQ1_0": _unpacked("ternary_kernels", "unpack_tq1_0"),
    "IQ1_M": _unpacked("iq_kernels", "unpack_iq1_m"),
    "IQ1_S": _unpacked("iq_kernels", "unpack_iq1_s"),
}
