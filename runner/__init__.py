"""Train LoRA adapters under different initializations and record their dynamics, step by step.

One convention everywhere (texts that write row vectors transpose it):

    W0 (n_out, n_in)   frozen weight of an adapted layer        Z  (n_in)   the layer's input
    A  (r, n_in)       inner factor                             Z_A = A·Z   (r)
    B  (n_out, r)      outer factor                             Z_B = s·B·A·Z   (n_out)
    s                  scale of the product, alpha / r          n  = width

    W = W0 + s·B·A.    Init[A]: A random, B = 0.    Init[B]: B random, A = 0.

A *run* is one resolved configuration. A *stack* is K runs trained in lockstep on one frozen base; every tensor that
belongs to runs leads with K: A (K, r, n_in), B (K, n_out, r), loss (K,), lr (K,). A single run is a stack with K = 1.
"""

import os
from typing import TYPE_CHECKING, Any

# Before any library loads OpenMP: threads that wait for each other sleep rather than spin. On cores that are busy with other
# work, spinning threads keep those from running for whom they wait, and training takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from runner.config import ConfigError
    from runner.sweeps.api import sweep

__all__ = ["ConfigError", "sweep"]


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is used: the command line must be ready for Ctrl-C before libraries load."""
    if name == "sweep":
        from runner.sweeps.api import sweep

        return sweep
    if name == "ConfigError":
        from runner.config import ConfigError

        return ConfigError
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
