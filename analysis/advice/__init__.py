"""Which way to finetune, at which learning rate, how sure: answers from the runs of any sweep.

A *question* is all that its runs have in common (task, model, width, steps, …). The *ways* to answer it differ in adapter,
init or optimizer. `answers` has the numbers, `text` says them, `figure` draws them, `command` is `python -m analysis advise`.
"""
