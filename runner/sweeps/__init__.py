"""Sweeps. In: checked configurations. Out: their runs in the store, and `Results` of all of them.

configurations -> `plan` (unfinished runs, in stacks) -> `execute` (claims, `executors`, `attempts`, store, tracker) -> `report`
"""
