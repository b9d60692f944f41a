"""One page of all figures with their captions, for the documentation."""

import os
from pathlib import Path

from analysis import figures, files

HEAD = """\
# Figures

[← Project README](../README.md) · [All pages](README.md)

Every figure of `make reproduce-all` and `make reproduce-real` with its caption, written by `make figures` from the records.
"""


def write(page: Path, outputs: Path) -> None:
    """The page, of the figures that are drawn."""
    parts = [HEAD]
    for name in figures.NAMES:
        picture = outputs / "figures" / f"{name}.png"
        if picture.exists():
            caption = picture.with_suffix(".md").read_text().strip()
            link = Path(os.path.relpath(picture, page.parent)).as_posix()
            parts.append(f"## {name}\n\n![{name}]({link})\n\n{caption}\n")
    with files.written(page) as new:
        new.write_text("\n".join(parts))
