"""Outputs that a page is made of, and what a page holds."""

import base64
import gzip
import json
import re
import time
from pathlib import Path

import pandas as pd
from stored import store
from synthetic import sweep

EXPERIMENT = "two_widths"
FIELDS = {"experiment": EXPERIMENT, "adapter.name": "lora"}


def outputs(folder: Path, **options) -> pd.DataFrame:
    """Runs of one experiment in a folder of outputs, and their table. Of two inits one diverges at the highest rates."""
    frame = sweep(**{"widths": (128, 256), "lrs": tuple(2.0**-k for k in range(1, 9))} | options).assign(**FIELDS)
    store(folder / "runs" / EXPERIMENT, frame)
    return frame


def contents(page: str) -> dict[str, dict]:
    """Experiment -> data, of a page's text."""
    found = re.findall(r'<script type="text/plain" class="data" data-name="([^"]*)">([\w+/=]*)</script>', page)
    return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in found}


def until(page, holds: str, argument: object = None) -> None:
    """Wait until it holds in the browser. Raises TimeoutError. (What Playwright waits with is evaluated in the page, whose policy
    forbids that.)"""
    end = time.monotonic() + 30
    while not page.evaluate(holds, argument):
        if time.monotonic() > end:
            raise TimeoutError(f"30 s and not yet: {holds}")
        page.wait_for_timeout(50)
