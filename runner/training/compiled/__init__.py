"""engine=compiled: a model's step, forward and backward, traced once and compiled by inductor."""
