"""Loss against learning rate, a curve a way: best rates with intervals, ranges that are as good, and where runs break down."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.advice import text
from analysis.advice.answers import Answer, Question
from analysis.figures._sensitivity import legend_below

MOST = 8  # panels
MOST_WAYS = 5  # curves in a panel, of the ways that end lowest
COLUMNS = 4


def draw(questions: Sequence[Question]) -> Figure:
    """A panel a question."""
    with mpl.rc_context(style.RC):
        return _draw(questions)


def _draw(questions: Sequence[Question]) -> Figure:
    fig, axes = style.wrapped(len(questions), 2.8 if len(questions) < 3 else 2.4, COLUMNS, extra=0.6)
    names = dict.fromkeys(answer.name for question in questions for answer in _shown(question))
    looks = {name: _look(name, place) for place, name in enumerate(names)}
    for panel, question in zip(axes, questions, strict=True):
        _panel(panel, question, looks)
    handles = style.handles(looks.values())
    grey = {"color": "0.4", "linestyle": "none", "markeredgecolor": "black"}
    handles.append(Line2D([], [], marker="o", markersize=5.5, label="best rate, with its 95% interval", **grey))
    handles.append(Line2D([], [], color="0.4", linewidth=6, alpha=0.35, label="as good within the seeds' noise"))
    if any(answer.breaks for question in questions for answer in question.answers):
        handles.append(Line2D([], [], marker="^", markersize=5, markeredgewidth=0.4, label="broke down", **grey))
    if any(question.nats and np.isfinite(question.start) for question in questions):
        handles.append(Line2D([], [], color="0.4", linestyle=":", linewidth=1.0, label="frozen model"))
    legend_below(fig, handles)
    kinds = {question.nats for question in questions}
    for panel, question in zip(axes, questions, strict=True):
        if len(kinds) > 1 or panel.get_subplotspec().is_first_col():
            panel.set_ylabel("held-out loss (nats)" if question.nats else "training loss")
    return fig


def _shown(question: Question) -> list[Answer]:
    """The ways that end lowest, and full finetuning."""
    return [a for i, a in enumerate(question.answers) if i < MOST_WAYS or a.baseline]


def _look(name: str, place: int) -> style.Look:
    """That of the init, where a way is called by an init that has one; else one by its place among the ways."""
    if name == "adapter=full":
        return style.look("pretrained")
    own = style.INITS.get(name.removeprefix("init="))
    if own is not None:
        return replace(own, label=_short(name))
    colors, markers, lines = style.OTHERS
    return style.Look(
        _short(name), colors[place % len(colors)], markers[place % len(markers)], lines[place % len(lines)]
    )


def _short(name: str) -> str:
    """Without the names of the choices."""
    return name.replace("adapter=", "").replace("init=", "").replace("optimizer.", "")


def _panel(panel: Axes, question: Question, looks: Mapping[str, style.Look]) -> None:
    top = question.start if question.nats and np.isfinite(question.start) else np.inf
    shown = _shown(question)
    rates = np.array(sorted({2.0**x for answer in shown for x in answer.curve}))
    for place, answer in enumerate(shown):
        _curve(panel, answer, looks[answer.name], top, 1.0 - 0.05 * place)
    style.rate_axis(panel, rates)
    if np.isfinite(top):
        panel.axhline(top, color="0.4", linestyle=":", linewidth=1.0)
        lowest = min((answer.loss.value for answer in question.answers if answer.found), default=np.nan)
        if lowest < top:
            panel.set_ylim(lowest - 0.12 * (top - lowest), top + 0.2 * (top - lowest))
    else:
        style.log_y(panel, empty="all runs diverged")
    panel.set_title(_title(question), loc="left")


def _title(question: Question) -> str:
    head = text.heading(question)
    first = question.answers[0]
    if first.found is None:
        return "\n".join(filter(None, (head, "no rate at which all seeds finish")))
    place = "advised" if all(gap.decided for gap in question.gaps if not gap.baseline) else "advised, not surely"
    return "\n".join(filter(None, (head, f"{place}: {_short(first.name)}", f"at {text.rate(first).split(' (')[0]}")))


def _curve(panel: Axes, answer: Answer, own: style.Look, top: float, height: float) -> None:
    xs = np.array(sorted(answer.curve))
    means = np.array([answer.curve_mean(x) for x in xs])
    known = np.isfinite(means)
    rates, losses = 2.0 ** xs[known], np.exp(means[known])
    if len(rates):
        low, high = (np.exp([end(list(answer.curve[x].values())) for x in xs[known]]) for end in (np.min, np.max))
        panel.fill_between(rates, low, high, color=own.color, alpha=0.18, linewidth=0)
        panel.plot(rates, losses, color=own.color, marker=own.marker, linestyle=own.line, markersize=2.5)
    down = 2.0 ** xs[~known | (means > np.log(top))]
    if len(down):
        style.at_the_top(panel, down, height, own)
    if (found := answer.found) is None:
        return
    good = [x for x in xs if found.good[0] <= x <= found.good[1] and np.isfinite(answer.curve_mean(x))]
    panel.plot(
        2.0 ** np.array(good),
        np.exp([answer.curve_mean(x) for x in good]),
        color=own.color,
        linewidth=7,
        alpha=0.35,
        solid_capstyle="round",
    )
    ends = np.clip([found.low, found.high], xs[0], xs[-1])
    bar = [[max(2**found.x - 2 ** ends[0], 0)], [max(2 ** ends[1] - 2**found.x, 0)]]
    panel.errorbar(
        2**found.x,
        answer.loss.value,
        xerr=None if np.isnan(found.low) else bar,
        ecolor="black",
        elinewidth=1.0,
        capsize=3,
        marker=own.marker,
        color="white" if found.edge else own.color,
        markeredgecolor=own.color if found.edge else "black",
        markeredgewidth=1.2 if found.edge else 0.7,
        markersize=5.5,
        zorder=5,
    )
