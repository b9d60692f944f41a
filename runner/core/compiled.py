"""How the kernels are compiled. To be imported before anything is: Numba fixes its target at the first decorated function."""

from functools import partial

import llvmlite.binding as llvm
import numba
from numba import uintp
from numba.core import config

_features = llvm.get_host_cpu_features()
if config.CPU_NAME is None and _features.get("avx512f"):  # LLVM would use half of each register to save power
    config.CPU_NAME, config.CPU_FEATURES = llvm.get_host_cpu_name(), _features.flatten() + ",-prefer-256-bit"

njit = partial(numba.njit, error_model="numpy", cache=True)

# Unsigned indices: without Python's negative ones to think of, LLVM turns loops into vector code.
ONE, TWO, THREE = uintp(1), uintp(2), uintp(3)
