"""One HTML file of an experiment, or of all: loss against rate, curves, claims, advice, runs and figures, to click through."""
