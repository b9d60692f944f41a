"""Frozen transformers models. In: a task's options. Out: layers, weights, and text; small ones are pretrained here."""

import os
from types import ModuleType


def library() -> ModuleType:
    """`transformers`, quiet. Imported where it is needed only: it takes seconds, which toys need not wait for."""
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # it warns after forks otherwise, and cores are ours to divide
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
