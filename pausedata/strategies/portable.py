"""Mathematics that gives the same bits on any machine and with any release of NumPy.

``np.log`` does not: its last bits depend on the processor's instructions and on the release. What
decides a position is made of operations that IEEE 754 defines to the bit: + - * / sqrt.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Double = np.ndarray[Any, np.dtype[np.float64]]

_BITS_OF_SQRT_HALF = np.array([math.sqrt(0.5)]).view(np.int64)[0]
# ln 2 in two parts: the first has 32 bits, so that its products with an exponent (11 bits) are
# exact; the second is the rest, rounded.
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
# 2/3, 2/5, 2/7 …: as s² is at most 0.0295, what follows is less than 2^-60 of the logarithm.
_SERIES = [2 / (2 * n + 1) for n in range(1, 11)]
_BLOCK = 8192  # numbers at a time: the arrays in between stay in the processor's cache


def log(x: Double) -> Double:
    """The natural logarithm of each x, positive and normal (at least 2^-1022), within 1 ulp.

    x = 2^e · m with m from sqrt(1/2) to sqrt(2). With f = m - 1 and s = f / (2 + f),
    ln m = 2 (s + s³/3 + s⁵/5 + …) = f - s (f - r), where r = 2 s²/3 + 2 s⁴/5 + …: f is exact, so
    that no bits are lost where m is near 1.
    """
    x = np.ascontiguousarray(x, np.float64)
    result = np.empty_like(x)
    for first in range(0, len(x), _BLOCK):
        _log_of_block(x[first : first + _BLOCK], result[first : first + _BLOCK])
    return result


def _log_of_block(x: Double, result: Double) -> None:
    bits = x.view(np.int64)
    exponent = (bits - _BITS_OF_SQRT_HALF) >> 52
    f = (bits - (exponent << 52)).view(np.float64)
    f -= 1.0
    s = f + 2.0
    np.divide(f, s, out=s)
    square = s * s
    r = square * _SERIES[-1]
    for factor in reversed(_SERIES[:-1]):
        r += factor
        r *= square
    np.subtract(f, r, out=r)
    r *= s
    e = exponent.astype(np.float64)
    np.multiply(e, _LN2_LOW, out=square)
    r -= square
    r -= f
    e *= _LN2_HIGH
    np.subtract(e, r, out=result)
