"""Tables of runs. In: run directories and records. Out: tidy tables of the runs that were asked for, fit for a figure."""
