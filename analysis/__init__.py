"""From the runner's files to figures and claims. Knows the runner only through those files.

>>> import analysis
>>> steps = analysis.load("outputs/runs/lr_vs_width")    # one row per run and logged step
>>> runs = analysis.runs("outputs/records/lr_vs_width.parquet")    # one row per run
"""

from analysis.tables.load import load, runs

__all__ = ["load", "runs"]
