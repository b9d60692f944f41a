"""`python -m runner [key=value …]`; see `runner.sweeps.cli`."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while libraries load, Ctrl-C just ends the process

from runner.core import streams

streams.prepare()

from runner.sweeps.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    main()
except KeyboardInterrupt:  # before the first run; from there on it is handled where the runs are
    print("interrupted", file=sys.stderr)
    sys.exit(130)
