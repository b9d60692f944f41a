"""Stacked optimizers. In: the gradients and learning rates of K runs. Out: their parameters, changed in place.

One module an optimizer; each agrees with its `torch.optim` namesake run by run.
"""
