"""Tasks: a frozen base and data. In: the stacked adapters and a step. Out: the losses and gradients of their runs.

`base` says what every task answers and has what the toys share, `finetuning` what those on transformers models do.
"""
