"""The store. In: the outcome of a run. Out: its directory, complete or not there at all; and trackers, such as W&B."""
