"""The page as one HTML file, which loads nothing: libraries, data and pictures are in it, and its policy forbids all else."""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from analysis import style
from analysis.page import charts, curves
from analysis.page.content import Content
from analysis.page.discussion import passages

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("data.js", "charts.js", "table.js", "filters.js", "page.js")
BUNDLE = """
import sys, vl_convert
sys.stdout.buffer.write(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode())"""
DARK = "#14171c"  # background of the dark page
CONTRAST = 4.5  # of lines and marks against it, as WCAG has it of text
COLORS = 256  # of a picture: text and lines in a few colours, at a quarter of the size


@contextmanager
def libraries() -> Iterator[Callable[[], str]]:
    """Vega and Vega-Lite as one script, which another process puts together meanwhile: it takes three seconds."""
    with subprocess.Popen([sys.executable, "-c", BUNDLE], stdout=subprocess.PIPE) as child:

        def script() -> str:
            text, _ = child.communicate()
            if child.returncode:
                raise subprocess.CalledProcessError(child.returncode, child.args)
            return text.decode()

        try:
            yield script
        finally:
            child.kill()


def page(
    contents: Sequence[Content], pictures: Mapping[Path, Sequence[str]], outputs: Path, chosen: str, libraries: str
) -> str:
    """The whole file. `pictures`: of which experiments each is. `chosen`: words on which runs these are; empty for all."""
    inits = list(dict.fromkeys(init for content in contents for init in _inits(content)))
    scripts = [libraries, "\n".join((TEMPLATES / name).read_text() for name in SCRIPTS)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        contents=contents,
        packed={content.name: packed(content, inits) for content in contents},
        style=Markup((TEMPLATES / "style.css").read_text()),
        colors=[(look.color, lightened(look.color)) for look in map(style.look, inits)],
        marks=[(color, lightened(color)) for color in style.MARKS],
        scripts=[Markup(script) for script in scripts],
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        figures=[_picture(path, of) for path, of in pictures.items()],
        drawn={name for of in pictures.values() for name in of},
        passages=passages(),
        panels=json.dumps(curves.PANELS, ensure_ascii=True),
        points=curves.POINTS,
        first=curves.EARLY,
        digits=curves.DIGITS,
        outputs=outputs,
        chosen=chosen,
    )


def _inits(content: Content) -> list[str]:
    return content.data["runs"]["config"]["init.name"]["values"]


def packed(content: Content, inits: Sequence[str]) -> str:
    """An experiment's data and charts, compressed, in letters."""
    of = {"charts": charts.charts({init: inits.index(init) for init in _inits(content)}, content.data["loss"])}
    text = json.dumps(content.data | of, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _picture(path: Path, experiments: Sequence[str]) -> dict[str, Any]:
    """A figure with its caption, the first sentence of which says what is to be seen."""
    with Image.open(path) as image:
        width, height = image.size
        image.convert("RGB").quantize(COLORS).save(small := io.BytesIO(), "PNG", optimize=True)
    note = path.with_suffix(".md")
    caption = note.read_text().strip().splitlines() if note.is_file() else []
    source = f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
    return {
        "name": path.stem,
        "of": " ".join(experiments),
        "source": source,
        "width": width,
        "height": height,
        "caption": caption,
    }


def lightened(color: str) -> str:
    """The colour, mixed with as much white as it takes to stand out from the dark background."""
    shades = (_mixed(color, tenth / 10) for tenth in range(11))
    return next(shade for shade in shades if contrast(shade, DARK) >= CONTRAST)


def contrast(one: str, other: str) -> float:
    """The ratio of luminances that WCAG defines."""
    light, dark = sorted((_luminance(one) + 0.05, _luminance(other) + 0.05), reverse=True)
    return light / dark


def _channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _mixed(color: str, white: float) -> str:
    return "#" + "".join(f"{round(value + white * (255 - value)):02X}" for value in _channels(color))


def _luminance(color: str) -> float:
    shares = [value / 255 for value in _channels(color)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
