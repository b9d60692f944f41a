"""The page in a real browser: what is clicked is what is shown, by mouse and by keyboard, in light, dark and print."""

import math
import re

import pages
import pytest

from analysis.page.curves import PANELS
from analysis.tables import load

FIRST = "document.querySelectorAll('#table tbody tr')"


def table_of(frame):
    return load.per_run(frame).set_index("run_id")


def shown(page) -> list[list[str]]:
    """The rows of the table of runs."""
    return page.evaluate(f"[...{FIRST}].map(row => [...row.cells].map(cell => cell.textContent))")


def names(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('#table thead button')].map(button => button.textContent)")


def column(page, name: str) -> list[str]:
    place = names(page).index(name)
    return [row[place] for row in shown(page)]


def all_rows(page) -> None:
    while page.locator("#more").is_visible():
        page.click("#more")


def four(value: float) -> float:
    return float(f"{value:.4g}")


def number(text: str) -> float:
    return math.nan if text == "–" else float(text)


def is_shown(page, run: str, frame) -> None:
    """That the page says of this run what the table has: its results, configuration, and the end of every curve."""
    row, rows = table_of(frame).loc[run], frame[frame["run_id"] == run]
    pages.until(page, "run => document.querySelector('#configuration dd')?.textContent === run", run)
    pages.until(page, "document.querySelectorAll('#curves figcaption').length > 3")
    pages.until(page, "[...document.querySelectorAll('#curves figcaption')].every(each => each.textContent)")
    words = page.inner_text("#chosen")
    assert run in words and row["init.name"] in words
    sentence, few = re.fullmatch(r"(.*?)\.( \d+ logged steps are kept of this run\.)?", words).groups()
    assert few == (f" {len(rows)} logged steps are kept of this run." if len(rows) < 15 else None)
    ending = sentence.split()[-1]
    assert ending == "diverged" if row["status"] == "diverged" else float(ending) == four(row["summary.final_loss"])
    terms = page.evaluate(
        "[...document.querySelectorAll('#configuration dt, #configuration dd')].map(e => e.textContent)"
    )
    found = dict(zip(terms[::2], terms[1::2], strict=True))
    for field in ("optimizer.lr", "task.width", "seed"):
        assert float(found[field]) == pytest.approx(float(row[field]), rel=1e-5)
    readouts = " ".join(page.locator("#curves figcaption").all_inner_texts())
    for curves in PANELS.values():
        for name, label in curves.items():
            if name in frame and (values := rows[name].dropna()).size:
                [text] = re.findall(rf"{re.escape(label)} ([\d.e-]+)", readouts)
                assert float(text) == four(values.iloc[-1]), (name, readouts)
    assert run in page.url


def alone(page) -> tuple[str, float, float]:
    """A run whose mark no other covers, and where it is."""
    return page.evaluate("""() => {
        for (const path of document.querySelectorAll('#rates svg .mark-symbol path')) {
            const datum = path.__data__?.datum, box = path.getBoundingClientRect();
            const x = box.x + box.width / 2, y = box.y + box.height / 2;
            if (datum?.id && document.elementFromPoint(x, y) === path) return [datum.id, x, y];
        }
    }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_paints_in_light_and_dark_and_can_be_switched(opened, scheme):
    page = opened(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    paints = page.evaluate("performance.getEntriesByType('paint').map(({ name, startTime }) => [name, startTime])")
    assert paints and page.locator("#rates svg .mark-symbol path").count() > 20
    print(f"\n{scheme}:", ", ".join(f"{name} after {round(time)} ms" for name, time in paints))


def test_text_cannot_become_code(browser, report):
    """By the page's own policy, which holds in a task of the page."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(report[0].as_uri())
        page.evaluate(
            "setTimeout(() => { try { new Function('')(); hit = 'ran' } catch (e) { hit = e.name } }); hit = null"
        )
        pages.until(page, "window.hit")
        assert page.evaluate("hit") == "EvalError"


def test_a_click_shows_that_run(opened, report):
    page = opened()
    run, x, y = alone(page)
    page.mouse.click(x, y)
    is_shown(page, run, report[1])
    other = next(r for r in report[1]["run_id"].unique() if r != run)
    with pytest.raises(AssertionError):
        assert other in page.inner_text("#chosen")


def test_the_keyboard_shows_it_too(opened, report):
    page = opened()
    page.focus("#search")
    for _ in range(100):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")
        if label.startswith("Show run "):
            break
    page.keyboard.press("Enter")
    is_shown(page, label.removeprefix("Show run "), report[1])
    assert page.evaluate("document.activeElement.id") == "run"
    page.focus("#step")
    page.keyboard.press("Home")
    assert page.inner_text("#at").startswith("0 of")


def test_a_link_opens_a_run_that_diverged(opened, report):
    frame = report[1]
    run = frame.loc[frame["status"] == "diverged", "run_id"].iloc[0]
    page = opened(f"#experiment={pages.EXPERIMENT}&run={run}")
    is_shown(page, run, frame)
    page.click("#unchoose")
    assert page.locator("#details").is_hidden() and run not in page.url


def test_the_table_sorts_numbers_as_numbers_and_what_is_unknown_last(opened, report):
    page = opened()
    all_rows(page)
    table = table_of(report[1])
    assert len(shown(page)) == (table["task.width"] == 256).sum()
    for down in (True, False):
        page.locator("#table thead button", has_text="final training loss").click()
        values = [number(text) for text in column(page, "final training loss")]
        known = [value for value in values if not math.isnan(value)]
        assert (
            known == sorted(known, reverse=down)
            and all(map(math.isnan, values[len(known) :]))
            and len(known) < len(values)
        )
        state = "descending" if down else "ascending"
        assert page.locator(f"#table th[aria-sort={state}]").inner_text().startswith("final training loss")
    page.locator("#table thead button", has_text="run").first.click()
    assert column(page, "run") == sorted(column(page, "run"))


def test_filters_leave_the_runs_that_the_table_has(opened, report):
    page, table = opened(), table_of(report[1])
    page.select_option("select[name='task.width']", label="128")
    page.select_option("select[name='init.name']", label="gaussian_B")
    page.select_option("select[name=seed]", label="3")
    page.select_option("select[name='rates from']", label="0.03125")
    all_rows(page)
    wanted = table[(table["task.width"] == 128) & (table["init.name"] == "gaussian_B") & (table["seed"] == 3)]
    wanted = wanted[wanted["optimizer.lr"] >= 0.03125]
    assert sorted(column(page, "run")) == sorted(wanted.index) and len(wanted)
    page.fill("#search", wanted.index[0])
    assert column(page, "run") == [wanted.index[0]]
    page.click("#clear")
    all_rows(page)
    assert len(shown(page)) == ((table["task.width"] == 128) & (table["init.name"] == "gaussian_B")).sum()


def drag(page, chart: str, begin: float, end: float) -> None:
    """Over this share of a chart's width, between its marks."""
    box = page.locator(f"{chart} svg").bounding_box()
    y = box["y"] + 0.8 * box["height"]
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (begin + end) / 2 * box["width"], y, steps=4)
    page.mouse.move(box["x"] + end * box["width"], y, steps=4)
    page.mouse.up()


def test_a_brush_over_rates_narrows_the_table_and_a_run_in_it_can_be_clicked(opened, report):
    page = opened()
    before = page.inner_text("#count")
    drag(page, "#rates", 0.3, 0.7)
    pages.until(page, "before => document.getElementById('count').textContent !== before", before)
    all_rows(page)
    rates = {float(text) for text in column(page, "optimizer.lr")}
    every = set(report[1]["optimizer.lr"])
    assert 0 < len(rates) < len(every) and min(rates) > min(every) and max(rates) < max(every)
    inside = [each for each in every if min(rates) * 0.99 < each < max(rates) * 1.01]
    assert len(inside) == len(rates)
    ends = [float(page.input_value(f"select[name='rates {end}']")) for end in ("from", "to")]
    assert ends == [min(rates), max(rates)]
    page.locator("#rates").scroll_into_view_if_needed()
    run, x, y = alone(page)
    page.mouse.click(x, y)
    is_shown(page, run, report[1])


def test_a_brush_over_what_was_measured_narrows_the_table(opened):
    page = opened()
    page.locator("#measure").scroll_into_view_if_needed()
    before = page.inner_text("#count")
    drag(page, "#measure", 0.1, 0.5)
    pages.until(page, "before => document.getElementById('count').textContent !== before", before)
