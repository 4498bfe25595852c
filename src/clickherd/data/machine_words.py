"""Bytes taken eight or sixty-four at a time inside compiled loops, on little-endian machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


class _Decorator(Protocol):
    """A decorator that keeps a function's signature, as far as a type checker is told."""

    def __call__(self, function: Function) -> Function: ...


def _typed(decorator: Any) -> _Decorator:
    return cast(_Decorator, decorator)


# _nrt: these loops allocate nothing, and counting references to their arrays at every inner call would cost more than
# all the rest
jit = _typed(numba.njit(cache=True, nogil=True, _nrt=False))
inlined = _typed(numba.njit(inline="always", _nrt=False))


def _at(context: Any, builder: Any, kind: Any, args: Any, wanted: Any) -> Any:
    """What stands in an array from a byte on, as a value of the wanted LLVM type; it need not be aligned."""
    array, index = args[:2]
    data = context.make_array(kind)(context, builder, array).data
    place = builder.bitcast(builder.gep(data, [index]), wanted.as_pointer())
    return builder.load(place, align=1, typ=wanted)


@intrinsic  # type: ignore[untyped-decorator]
def load_word(typing: Any, array: Any, index: Any) -> Any:
    """The eight bytes of a uint8 array from `index` (int64) on; the first is the lowest. They have to be there."""
    del typing

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _at(context, builder, signature.args[0], args, ir.IntType(64))

    return types.uint64(array, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def equal_bytes(typing: Any, array: Any, index: Any, byte: Any) -> Any:
    """Which of the 64 bytes from `index` (int64) on are `byte` (uint8): bit i for the i-th. They have to be there."""
    del typing

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(8), 64)
        found = _at(context, builder, signature.args[0], args, lanes)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), args[2], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        every = builder.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), zeros)
        return builder.bitcast(builder.icmp_unsigned("==", found, every), ir.IntType(64))

    return types.uint64(array, index, byte), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typing: Any, word: Any) -> Any:
    """The place of the lowest bit that is set in a uint64, from 0. One has to be set."""
    del typing

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(word), generate
