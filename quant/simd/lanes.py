"""Sixteen lanes that belong together in groups: choices lane by lane, sums and extremes by group.

The result of a group stands in each of its lanes. A lane depends on its own group only, so that it
does not matter which groups share a vector.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .half import narrow, widen
from .vector import call, constant, f32x16, intrinsic, shuffle


@intrinsic
def where_less(typingctx: Any, a: Any, b: Any, chosen: Any, otherwise: Any) -> Any:
    """Lane by lane `chosen` where a < b, else (NaN too) `otherwise`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        less = builder.fcmp_ordered("<", args[0], args[1])
        return builder.select(less, args[2], args[3])

    return chosen(a, a, chosen, chosen), emit


@intrinsic
def nearest_f16(typingctx: Any, a: Any) -> Any:
    """Each lane as the float16 nearest to it, in float32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen(builder, narrow(builder, args[0]))

    return a(a), emit


@intrinsic
def square_root(typingctx: Any, a: Any) -> Any:
    """Of each lane, correctly rounded."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.sqrt.v{a.lanes}f32", args[0].type, list(args))

    return a(a), emit


def staircase(edges: Sequence[float], steps: Sequence[float]) -> Any:
    """An intrinsic: lane by lane the last step whose edge lies below, the first step if none does.

    edges: rising, one fewer than steps.
    """

    @intrinsic
    def climb(typingctx: Any, a: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            reached = constant(a.llvm, steps[0])
            for edge, step in zip(edges, steps[1:], strict=True):
                above = builder.fcmp_ordered(">", args[0], constant(a.llvm, edge))
                reached = builder.select(above, constant(a.llvm, step), reached)
            return reached

        return a(a), emit

    return climb


def _over_groups(pair: Callable[[Any, Any, Any], Any]) -> Any:
    def of_size(size: int) -> Any:
        @intrinsic
        def fold(typingctx: Any, a: Any) -> Any:
            def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                (vector,) = args
                step = size // 2
                while step:
                    other = [lane ^ step for lane in range(16)]
                    vector = pair(builder, vector, shuffle(builder, vector, vector, other))
                    step //= 2
                return vector

            return f32x16(f32x16), emit

        return fold

    return of_size


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


# Of groups of 1, 2, 4, 8 or 16 neighbouring lanes.
sum_of_groups = _over_groups(lambda builder, a, b: builder.fadd(a, b))
max_of_groups = _over_groups(_larger)


def _interleaver(half: int) -> Any:
    @intrinsic
    def interleave(typingctx: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = [half * 8 + i // 2 + 16 * (i % 2) for i in range(16)]
            return shuffle(builder, args[0], args[1], lanes)

        return a(a, a), emit

    return interleave


# a[0] b[0] a[1] b[1] ... of the first eight lanes, and of the last eight.
interleave_low, interleave_high = _interleaver(0), _interleaver(1)
