"""The page as it is read: in a browser, on a phone, in the dark, without a mouse."""

import os
from pathlib import Path

import pytest

AXE = [
    Path(os.environ.get("AXE_CORE", "")),
    Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js",
]


@pytest.fixture
def shown(browser, page):
    """A function that shows the page; afterwards nothing may have gone wrong in it."""
    browser.errors.clear()
    browser.requests.clear()
    yield lambda **how: browser.open(page, **how)
    assert browser.errors == []
    assert browser.requests == []


CHARTS = "[...document.querySelectorAll('.chart')]"


def test_every_chart_is_drawn_and_says_its_values_where_it_is_pointed_at(shown, browser):
    shown()
    assert browser.run(f"{CHARTS}.every(c => c.querySelector('.main-svg'))")
    browser.run("document.getElementById('losses-chart').scrollIntoView({behavior: 'instant'})")
    box = "document.querySelector('#losses-chart .xy').getBoundingClientRect()"
    left, top, width, height = browser.run(f"(b => [b.left, b.top, b.width, b.height])({box})")
    browser.point(left + 0.4 * width, top + 0.5 * height)
    browser.point(left + 0.5 * width, top + 0.5 * height)
    hover = "document.querySelector('#losses-chart .hoverlayer').textContent"
    browser.until(f"/\\d\\.\\d{{4}}/.test({hover})")
    assert "gpt" in browser.run(hover)


def test_choices_change_what_is_drawn(shown, browser):
    shown()
    title = "document.querySelector('#losses-chart .xtitle').textContent"
    assert browser.run(title) == "updates"
    choose = (
        "(s => { s.value = 'tokens'; s.dispatchEvent(new Event('change')); })"
        "(document.querySelectorAll('select[data-chart=losses-chart]')[1])"
    )
    browser.run(choose)
    browser.until(f"{title} === 'tokens'")


def test_tokens_are_played_and_scrubbed(shown, browser):
    shown()
    depth = "document.querySelector('[data-depth=tokens]').textContent"
    dots = "document.getElementById('tokens').data[2].x.join()"
    assert browser.run(depth) == "2.0 of 2"
    last = browser.run(dots)
    scrub = (
        "(s => { s.value = 0.5; s.dispatchEvent(new Event('input')); })"
        "(document.querySelector('[data-scrub=tokens]'))"
    )
    browser.run(scrub)
    assert browser.run(depth) == "0.5 of 2"
    assert browser.run(dots) != last
    browser.run("document.querySelector('[data-play=tokens]').click()")
    browser.until(f"{depth} === '2.0 of 2'")
    assert browser.run(dots) == last


def test_lines_are_shown_and_hidden_by_boxes(shown, browser):
    shown()
    box = "document.querySelector('#surprise .legend input')"
    visible = "document.getElementById('surprise-by-token').data.map(t => t.visible)"
    browser.run(f"{box}.focus()")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key=" ", text=" ")
    browser.send("Input.dispatchKeyEvent", type="keyUp", key=" ")
    assert False in browser.run(visible)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_needs_no_scrolling_aside(shown, browser, dark):
    shown(width=390, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run(f"{CHARTS}.every(c => c.getBoundingClientRect().right <= 390)")


def test_in_the_dark_text_is_light(shown, browser):
    shown(dark=True)
    brightness = "(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    ground = browser.run(f"{brightness}(getComputedStyle(document.body).backgroundColor)")
    tick = "document.querySelector('#losses-chart .xtick text')"
    ink = browser.run(f"{brightness}(getComputedStyle({tick}).fill)")
    line = "document.getElementById('losses-chart').data.find(t => t.name === 'gpt').line.color"
    assert ground < 60
    assert ink > 190
    assert browser.run(line) == "#e8eaed"


@pytest.mark.skipif(not any(p.is_file() for p in AXE), reason="needs axe-core (npm, or AXE_CORE)")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(shown, browser, dark):
    shown(dark=dark)
    source = next(path for path in AXE if path.is_file()).read_text(encoding="utf-8")
    browser.run(source + ";0")
    found = browser.run(
        "axe.run(document).then(r => [r.passes.length, r.violations.filter("
        "v => ['serious', 'critical'].includes(v.impact)).map(v => v.id + v.nodes[0].html)])"
    )
    assert found[0] > 15
    assert found[1] == []
