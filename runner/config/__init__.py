"""What can be asked for. In: overrides and YAML files. Out: a checked, plain `Config`, and the identity of its run.

It knows the parts that can be chosen only through `registry`, where each declares its options beside its own code.
"""

from runner.config.options import ConfigError
from runner.config.schema import Config

__all__ = ["Config", "ConfigError"]
