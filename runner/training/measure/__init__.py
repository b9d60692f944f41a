"""Measuring. In: the parameters of K runs around one update, and their gradients. Out: one number a column and run."""
