"""The page for those who use a keyboard, a screen reader, a telephone or paper."""

import re
import shutil
import subprocess

import pages

PROBLEMS = """() => {
    const found = [], say = (element, what) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
    const name = (e) => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.alt || e.textContent;
    for (const e of document.querySelectorAll('button, select, input, a, summary')) if (!name(e).trim()) say(e, 'no name');
    for (const e of document.querySelectorAll('img, [role=img], [role=region]'))
        if (!(e.alt || e.getAttribute('aria-label'))) say(e, 'no text');
    for (const e of document.querySelectorAll('th')) if (!e.scope) say(e, 'no scope');
    for (const e of document.querySelectorAll('table')) if (!e.caption?.textContent) say(e, 'no caption');
    for (const e of document.querySelectorAll('section'))
        if (!(e.ariaLabel || document.getElementById(e.getAttribute('aria-labelledby')))) say(e, 'no label');
    let level = 0;
    for (const e of document.querySelectorAll('h1, h2, h3, h4')) {
        if (Number(e.tagName[1]) > level + 1) say(e, 'skips a level');
        level = Number(e.tagName[1]);
    }
    const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
    ids.filter((id, k) => ids.indexOf(id) < k).forEach(id => found.push(`twice: ${id}`));
    for (const tag of ['main', 'header', 'nav', 'h1'])
        if (document.querySelectorAll(tag).length !== 1) found.push(`not one ${tag}`);
    if (!document.documentElement.lang) found.push('no language');
    return found;
}"""


def test_every_part_has_a_name_for_those_who_do_not_see_it(opened, report):
    page = opened(f"#experiment={pages.EXPERIMENT}&run={report[1]['run_id'].iloc[0]}")
    pages.until(page, "document.querySelectorAll('#curves figcaption').length > 3")
    assert page.evaluate(PROBLEMS) == []
    page.evaluate("document.body.append(document.createElement('button'), document.createElement('h4'))")
    assert [problem.split(":")[0] for problem in page.evaluate(PROBLEMS)] == ["no name", "skips a level"]


def test_where_the_keyboard_is_can_be_seen_and_the_first_stop_skips_to_the_answer(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_fits_a_telephone(opened):
    page = opened(viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_prints_in_light_without_controls_and_with_the_claims(opened, tmp_path):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#filters").is_hidden() and page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    claims = page.inner_text("section[aria-labelledby=claims]")
    assert "best lr, Init[A] over Init[B]" in claims and "reproduced" in claims
    pdf = page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert len(re.findall(rb"/Type */Page\b", pdf)) >= 1
    if tool := shutil.which("pdftotext"):
        text = subprocess.run([tool, tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True).stdout
        assert "best lr, Init[A]" in text
