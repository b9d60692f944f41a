"""The page's charts as Vega-Lite: of named data that the page fills in, and of colours that its style sheet declares.

Colours are CSS variables, so that one chart serves light, dark and print: `--init-N` of the N-th init, `--mark-N` of other roles.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt

from analysis import style

SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "*": "M0,-1L0.3,-0.3L1,-0.3L0.4,0.1L0.6,0.9L0,0.4L-0.6,0.9L-0.4,0.1L-1,-0.3L-0.3,-0.3Z",
    "p": "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z",
    "x": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
    "X": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
}
DASHES = {"-": [1, 0], "--": [6, 3], ":": [2, 2], "-.": [6, 2, 1, 2]}
MEASURED = "measured"  # which the page replaces by what it is
STROKE = "M0,-1L0,1"  # of a run that diverged: no init has it, and runs beside each other do not merge
CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.1,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "orient": "top",
        "title": None,
        "labelLimit": 200,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 0,
    },
    "aria": False,  # what screen readers are told stands beside the charts
}


def charts(inits: Mapping[str, int], loss: str) -> dict[str, dict[str, Any]]:
    """Name -> specification, for an experiment with these inits, of these colours' numbers, and what is called its loss."""
    return {"rates": rates(inits, loss), "measure": measure(inits, loss), "curve": curve()}


def rates(inits: Mapping[str, int], loss: str) -> dict[str, Any]:
    """Loss against learning rate: means over seeds with bands, every run, the diverged at the top edge, and a brush of rates."""
    x, y = _x("lr", "learning rate"), _y("loss", loss)
    color, shape, dash = _of_inits(inits)
    means, of = alt.Chart(alt.NamedData("cells")), alt.Detail("series:N")
    tip = [alt.Tooltip("tip:N", title="mean over seeds"), alt.Tooltip("of:N", title="of")]
    layers = [
        means.mark_area(opacity=0.2).encode(x, _y("low", loss), alt.Y2("high:Q"), color, of),
        means.mark_line(strokeWidth=2).encode(x, y, color, dash, of),
        means.mark_point(filled=True, size=60, opacity=1).encode(x, y, color, shape, tooltip=tip),
        *_runs(x, y, color, shape),
        means.transform_filter("datum.label != ''")
        .mark_text(align="left", dx=8, color="currentColor")
        .encode(x, y, of, text="label:N"),
    ]
    return _brushed(layers, 360)


def measure(inits: Mapping[str, int], loss: str) -> dict[str, Any]:
    """Loss against what was measured of the same runs, with a brush of it."""
    color, shape, _ = _of_inits(inits)
    return _brushed(_runs(_x("q", MEASURED), _y("loss", loss), color, shape), 300)


def curve() -> dict[str, Any]:
    """A panel of a run's curves, and where they stand at one step."""
    x, y, legend = (
        alt.X("step:Q", title="step").axis(grid=False, tickMinStep=1),
        _y("value", None),
        alt.Legend(symbolType="stroke", symbolStrokeWidth=2),
    )
    marks = [f"var(--mark-{n})" for n in range(len(style.MARKS))]
    names = alt.Color("name:N", sort=None, legend=legend).scale(range=marks)
    dashes = alt.StrokeDash("name:N", sort=None, legend=legend).scale(range=[[1, 0], [6, 3], [2, 2], [6, 2, 1, 2]])
    at, lines = alt.Chart(alt.NamedData("at")), alt.Chart(alt.NamedData("curve"))
    color = alt.Fill("color:N", scale=None)
    few = lines.transform_filter("datum.few")
    layers = [
        at.mark_rule(color="currentColor", opacity=0.4).encode(x),
        lines.mark_line(strokeWidth=2).encode(x, y, names, dashes),
        few.mark_point(filled=True, size=30, opacity=1).encode(x, y, color),
        at.mark_point(filled=True, size=40, opacity=1).encode(x, y, color),
    ]
    return _finished(alt.layer(*layers), 190)


def _x(field: str, title: str) -> alt.X:
    return alt.X(f"{field}:Q", title=title).scale(type="log", nice=False, padding=14).axis(format="~g", grid=False)


def _y(field: str, title: str | None) -> alt.Y:
    far = "datum.value && (abs(datum.value) < 1e-3 || abs(datum.value) >= 1e5)"
    label = f"datum.label && {far} ? format(datum.value, '~e') : datum.label"
    return alt.Y(f"{field}:Q", title=title).scale(type="log").axis(format="~g", labelExpr=label)


def _of_inits(inits: Mapping[str, int]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    looks, drawn = [style.look(init) for init in inits], shapes(inits)
    labels = alt.Legend(labelExpr=f"{json.dumps({init: name(init) for init in inits})}[datum.label]")
    return (
        alt.Color("init:N", legend=labels).scale(domain=[*inits], range=[f"var(--init-{n})" for n in inits.values()]),
        alt.Shape("init:N", legend=labels).scale(domain=[*inits], range=drawn),
        alt.StrokeDash("init:N", legend=labels).scale(domain=[*inits], range=[dashes(look.line) for look in looks]),
    )


def shapes(inits: Iterable[str]) -> list[str]:
    """As everywhere, but for one that an init of the same colour has: that takes the next that is free."""
    looks = [(look.color, SHAPES[look.marker]) for look in map(style.look, inits)]
    taken, found = set(looks), []
    for k, (color, shape) in enumerate(looks):
        if (color, shape) in looks[:k]:
            shape = next((other for other in SHAPES.values() if (color, other) not in taken), shape)
            taken.add((color, shape))
        found.append(shape)
    return found


def dashes(line: Any) -> list[float]:
    """Of a line as matplotlib names or measures it."""
    return DASHES[line] if isinstance(line, str) else [2 * length for length in line[1]]


def name(init: str) -> str:
    """What an init is called in a legend."""
    label = style.look(init).label
    return label if label == init else f"{label} ({init})"


def _runs(x: alt.X, y: alt.Y, color: alt.Color, shape: alt.Shape) -> list[alt.Chart]:
    """Every run, those that diverged in a row for each init at the top edge, and a ring around the chosen one."""
    tip = [alt.Tooltip("tip:N", title="one run"), alt.Tooltip("of:N", title="of"), alt.Tooltip("id:N", title="run")]
    top = alt.YValue(alt.ExprRef("datum.top"))
    gone = alt.Chart(alt.NamedData("gone")).mark_point(shape=STROKE, size=22, opacity=0.9, cursor="pointer")
    runs = alt.Chart(alt.NamedData("runs")).mark_point(filled=True, size=26, opacity=0.65, cursor="pointer")
    ring = {"shape": "circle", "size": 220, "color": "currentColor", "strokeWidth": 2.5, "opacity": 1}
    return [
        runs.encode(x, y, color, shape, tooltip=tip),
        gone.encode(x, top, color, tooltip=tip),
        alt.Chart(alt.NamedData("chosen")).mark_point(**ring).encode(x, y),
        alt.Chart(alt.NamedData("chosen_gone")).mark_point(**ring).encode(x, top),
    ]


def _brushed(layers: list[alt.Chart], height: int) -> dict[str, Any]:
    """With a range along the x axis: the page draws it, however it was chosen, and the brush itself is not to be seen."""
    within = alt.Chart(alt.NamedData("range")).mark_rect(opacity=0.08, color="currentColor")
    brush = alt.selection_interval(
        name="brush",
        encodings=["x"],
        on="[pointerdown[!event.item || event.item.mark.marktype !== 'symbol'], window:pointerup] > window:pointermove!",
        translate=False,
        zoom=False,
        mark=alt.BrushConfig(fillOpacity=0, strokeOpacity=0),
    )
    x = layers[0].encoding.x
    rect = within.encode(x.copy(deep=True), alt.X2("to:Q"))
    rect.encoding.x.shorthand = "from:Q"
    first, *rest = layers
    return _finished(alt.layer(rect, first.add_params(brush), *rest), height)


def _finished(chart: alt.LayerChart, height: int) -> dict[str, Any]:
    spec = chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    ).to_dict()
    return {key: value for key, value in spec.items() if key != "$schema"} | {"config": CONFIG}
