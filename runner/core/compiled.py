"""How the kernels are compiled. To be imported before anything is: Numba fixes its target at the first decorated function."""

import multiprocessing
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import uintp
from numba.core import config

from runner.core.messages import say

_features = llvm.get_host_cpu_features()
PROCESSOR = f"{llvm.get_host_cpu_name()} {_features.flatten()}"  # what machine code is made for
if config.CPU_NAME is None and _features.get("avx512f"):  # LLVM would use half of each register to save power
    config.CPU_NAME, config.CPU_FEATURES = llvm.get_host_cpu_name(), _features.flatten() + ",-prefer-256-bit"


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles a function and keeps what it compiled on disk, where a folder for it can be written."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # beside the source and in the user's cache, such as in a container
            _say_it_is_not_kept()
            return numba.njit(error_model="numpy", **options)(function)

    return compiled


@cache
def _say_it_is_not_kept() -> None:
    if multiprocessing.parent_process() is None:  # workers need not repeat it
        say(
            "compiled code cannot be kept, neither beside the source nor in ~/.cache, so every command compiles it again; set "
            "NUMBA_CACHE_DIR to a folder you can write to"
        )


# Unsigned indices: without Python's negative ones to think of, LLVM turns loops into vector code.
ONE, TWO, THREE = uintp(1), uintp(2), uintp(3)
