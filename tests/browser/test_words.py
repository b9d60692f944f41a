"""What the page says of itself in a real browser, and what stays where it is."""

import pages
import pytest
from test_in_chromium import alone, column, four, names

from analysis.__main__ import main


def answered(page) -> str:
    return page.inner_text(".answer:not([hidden])")


def test_the_answer_is_of_the_runs_that_are_shown_or_says_that_it_is_not(opened):
    page = opened()
    assert answered(page).startswith("width=256: ") and "task.width=256" in page.inner_text("#reading")
    page.select_option("select[name='task.width']", label="128")
    assert answered(page).startswith("width=128: ") and "task.width=128" in page.inner_text("#reading")
    page.select_option("select[name='init.name']", label="gaussian_B")
    assert answered(page).startswith("For other runs than those shown: ")


def test_the_name_of_the_experiment_is_on_the_page(opened):
    assert pages.EXPERIMENT in opened().inner_text("h1")


def test_a_link_to_a_section_keeps_experiment_run_and_filters(opened, report):
    run = report[1]["run_id"].iloc[0]
    page = opened(f"#experiment={pages.EXPERIMENT}&run={run}")
    pages.until(page, "document.querySelectorAll('#curves figcaption').length > 3")
    page.select_option("select[name=status]", label="finished")
    before = page.url
    page.click("nav a[href='#claims']")
    page.evaluate("window.dispatchEvent(new HashChangeEvent('hashchange'))")
    assert page.url == before and page.evaluate("document.activeElement.id") == "claims"
    assert page.evaluate("Math.abs(document.getElementById('claims').getBoundingClientRect().top) < 100")
    assert page.input_value("select[name=status]") != "" and run in page.inner_text("#chosen")


@pytest.mark.parametrize(
    ("fragment", "says"),
    [
        (f"#experiment={pages.EXPERIMENT}&run=none", f"There is no run none in {pages.EXPERIMENT}."),
        ("#experiment=nothing&run=x", "There is no experiment nothing in this page."),
        ("", "No run is chosen."),
    ],
)
def test_a_link_to_nothing_says_so(opened, fragment, says):
    page = opened(fragment)
    pages.until(page, "says => document.getElementById('chosen').textContent === says", says)


def test_rates_are_put_in_order_and_what_is_read_is_of_them(opened):
    page = opened()
    page.select_option("select[name='rates from']", label="0.03125")
    page.select_option("select[name='rates to']", label="0.0078125")
    ends = [float(page.input_value(f"select[name='rates {end}']")) for end in ("from", "to")]
    assert ends == [0.0078125, 0.03125] and set(column(page, "optimizer.lr")) == {"0.0078125", "0.015625", "0.03125"}
    assert "rates 0.0078125 to 0.03125: 30 runs" in page.inner_text("#reading")


def test_a_click_leaves_the_chart_where_it_is_and_takes_its_tooltip_away(opened):
    page = opened(viewport={"width": 1200, "height": 700})
    page.evaluate("document.getElementById('filters').scrollIntoView()")
    _, x, y = alone(page)
    page.mouse.move(x, y)
    page.wait_for_selector("#vg-tooltip-element.visible")
    before = page.evaluate("scrollY")
    page.mouse.click(x, y)
    pages.until(page, "document.querySelectorAll('#curves figcaption').length > 3")
    assert page.evaluate("scrollY") == before and page.locator("#vg-tooltip-element.visible").count() == 0


def test_paper_has_what_is_folded_and_the_screen_has_it_folded_again(opened):
    page = opened()
    count = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(count)
    assert before
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(count) == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(count) == before
    page.emulate_media(media="print")
    assert "Drag" not in page.inner_text("main") and "Click" not in page.inner_text("main")


def test_columns_and_quantities_say_when(opened):
    page = opened()
    texts = page.evaluate("[...document.querySelectorAll('#quantity option')].map(option => option.textContent)")
    assert "feature sizes: Z_A = A·Z, at the end" in texts
    assert all(text.split(", ")[-1].startswith("at ") for text in texts) and set(texts[2:]) <= set(names(page))


def test_what_is_compared_is_of_that_step_or_nothing(opened, report):
    page, frame = opened(), report[1]
    for step in (1, 10, 7):
        found = page.evaluate(
            """step => {
                data.curves.columns["feature/Z_A"].step = step;
                return data.runs.id.map((id, i) => [id, compared(data, "feature/Z_A", i)]);
            }""",
            step,
        )
        there = frame[frame["step"] == step].set_index("run_id")["feature/Z_A"].map(four).to_dict()
        assert dict(found) == {run: there.get(run) for run, _ in found}
        assert len(there) == {1: len(found), 7: 0}.get(step, len(there)) and len(there) <= len(found)


def test_points_of_a_curve_with_few_steps_are_marked_on_the_axis_of_the_whole_run(opened, report):
    frame = report[1]
    run = frame.loc[frame["status"] == "finished", "run_id"].iloc[0]
    page = opened(f"#experiment={pages.EXPERIMENT}&run={run}")
    page.wait_for_selector("#curves svg .mark-symbol path")
    points = page.evaluate("""() => [...document.querySelectorAll('#curves figure:first-child .mark-symbol path')]
        .map(path => path.__data__.datum).filter(datum => datum?.few).map(datum => datum.step)""")
    assert set(points) == set(frame.loc[frame["run_id"] == run, "step"])
    assert "5 logged steps are kept of this run." in page.inner_text("#chosen")


def test_all_rows_shown_leaves_the_keyboard_at_the_first_new_one(opened):
    page = opened()
    before = page.locator("#table tbody tr").count()
    page.focus("#more")
    page.keyboard.press("Enter")
    assert page.locator("#more").is_hidden() and page.locator("#table tbody tr").count() > before
    place = "[...document.querySelectorAll('#table tbody tr')].indexOf(document.activeElement.closest('tr'))"
    assert page.evaluate(place) == before


def test_without_scripts_every_experiment_has_its_answer_under_its_name(browser, tmp_path):
    for name in ("one", "two"):
        frame = pages.sweep(widths=(128,), seeds=(0, 1), lrs=(0.01, 0.02, 0.04)).assign(**pages.FIELDS)
        (tmp_path / "records").mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / "records" / f"{name}.parquet")
    assert main(["report", "--outputs", str(tmp_path)]) == 0
    for scripts, count in ((False, 2), (True, 1)):
        with browser.new_context(java_script_enabled=scripts) as context:
            page = context.new_page()
            page.goto((tmp_path / "report.html").as_uri())
            answers = page.locator(".answer")
            assert [answers.nth(k).is_visible() for k in range(2)].count(True) == count
            name = "getComputedStyle(document.querySelectorAll('.answer')[1], '::before').content"
            assert ("data-of" in page.content()) and (scripts or "two" in page.evaluate(name))


def test_another_experiment_begins_without_the_words_that_were_searched(opened, tmp_path):
    for name in ("one", "two"):
        frame = pages.sweep(widths=(128,), seeds=(0, 1), lrs=(0.01, 0.02, 0.04)).assign(**pages.FIELDS)
        (tmp_path / "records").mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / "records" / f"{name}.parquet")
    assert main(["report", "--outputs", str(tmp_path)]) == 0
    page = opened(path=tmp_path / "report.html")
    page.fill("#search", "gaussian_A")
    few = page.locator("#table tbody tr").count()
    page.select_option("#experiment", "two")
    pages.until(page, "few => document.querySelectorAll('#table tbody tr').length > few", few)
    assert page.input_value("#search") == ""


def test_a_narrower_window_draws_the_charts_anew(opened):
    page = opened()
    page.set_viewport_size({"width": 700, "height": 900})
    right = "document.querySelector('#rates svg')?.getBoundingClientRect().right"
    pages.until(page, f"{right} <= 700")
