"""The Hugging Face hub: asked once whether it answers, so that nothing waits for retries without a network."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from runner.core.messages import say

SECONDS = 5.0  # in which the hub has to answer


@cache
def ask() -> None:
    """Let the hub's libraries work offline, from what they have stored, if it does not answer (or if HF_HUB_OFFLINE says so)."""
    import datasets
    import huggingface_hub as hub

    if hub.constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # no name, no route, no answer: each HTTP library has errors of its own
        hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        say(f"{hub.constants.ENDPOINT} does not answer ({error}); only what was downloaded before can be used")


def is_name(name: str) -> bool:
    """Whether the hub could have something of this name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def files(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder with a model's files of these patterns, downloaded if they are not there. Raises the hub's errors."""
    import huggingface_hub as hub

    ask()
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
