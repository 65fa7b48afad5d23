"""Compiled loops: functions over NumPy arrays that numba turns into machine code.

Compiled code is kept on disk beside the module, or in the user's cache folder, and made anew when the module changes.
Numba looks at the function's own module alone: after an edit of a kernel that others call, delete `__pycache__`.
"""

from collections.abc import Callable
from typing import TypeVar

from numba import njit

F = TypeVar("F", bound=Callable)


def kernel(function: F) -> F:
    """Return the function compiled at its first call.

    Every process compiles it anew where no folder is writable.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # read-only file systems of containers
        return njit(nogil=True)(function)


def inlined(function: F) -> F:
    """Return the function as a part of every kernel that calls it."""
    return njit(nogil=True, inline="always")(function)
