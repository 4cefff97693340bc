"""The page in headless Chromium: it draws, reacts, fits a phone, and follows the colours of the system."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitwright.report import Measured, RunReport, render, render_compare
from bitwright.report.render import render_debug, render_sweep, render_tensors
from bitwright.tasks import Classification
from bitwright.values import Policy, Sites
from bitwright.values.findings import Findings, Measurement, Step
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep, SweepRow
from bitwright.values.tensors import AxisView, TensorView

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'bitwright[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not on PATH: apt-get install chromium-driver"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]

Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Opener:
    """Open a page at a width, with the system's colours dark or light; wait until its plots are drawn."""

    def opener(html: str, width: int = 1280, dark: bool = False) -> Any:
        chromium.execute_script("try { localStorage.clear(); } catch {}")
        chromium.get_log("browser")
        resize(chromium, width)
        colour_scheme(chromium, dark)
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        chromium.get(path.as_uri())
        wait(
            chromium,
            "return document.readyState === 'complete' && 'bitwrightReady' in document.documentElement.dataset",
        )
        return chromium

    return opener


def click(driver, by, name):
    """Click on an element in the middle of the window, wherever the plots that are still being drawn move it."""
    element = driver.find_element(by, name)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def resize(driver: Any, width: int) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def colour_scheme(driver: Any, dark: bool) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait(driver: Any, script: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not driver.execute_script(script):
        assert time.monotonic() < end, f"not true within {seconds} s: {script}"
        time.sleep(0.02)


def bits(driver: Any, holder: str) -> list[str]:
    """Bits of every bar of a strip, in the order of the sites."""
    bars = driver.execute_script(
        f"return [...document.querySelectorAll('#{holder} .bar')].map((b) => [+b.dataset.site, b.dataset.bits])"
    )
    return [value for _, value in sorted(bars)]


def text(driver: Any, selector: str) -> str:
    return str(driver.execute_script(f"return document.querySelector('{selector}').textContent"))


def loaded(driver: Any) -> list[str]:
    names = driver.execute_script("return performance.getEntriesByType('resource').map((r) => r.name)")
    return [name for name in names if not name.startswith("data:")]


def overflow(driver: Any) -> int:
    """Pixels to scroll sideways; on a phone innerWidth grows with what overflows, clientWidth does not."""
    page = "document.documentElement"
    return int(driver.execute_script(f"return {page}.scrollWidth - {page}.clientWidth"))


def test_plots_are_drawn_without_a_word_on_the_console(show: Opener, report: RunReport) -> None:
    driver = show(render(report))
    assert driver.execute_script("return document.querySelectorAll('#front-plot .main-svg').length") > 0
    assert driver.execute_script("return document.querySelectorAll('#agreement-plot .main-svg').length") > 0
    assert driver.execute_script("return document.querySelectorAll('#front-plot .point').length") >= 9
    assert driver.get_log("browser") == []
    assert loaded(driver) == []
    assert overflow(driver) <= 0


def test_clicking_a_point_shows_its_bits(show: Opener, report: RunReport) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    driver = show(render(report))
    assert bits(driver, "picked-strip") == bits(driver, "chosen-strip") == ["8", "4", "8", "4", "8", "8", "8"]
    assert text(driver, "#picked-name") == "mixed 4/8 (the chosen policy)"
    plot = driver.find_element(By.ID, "front-plot")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    # Where the first measured point of the front (100 bytes, 70 %) lies, from the middle of the plot.
    x, y = driver.execute_script(
        "const p = arguments[0], l = p._fullLayout, r = p.getBoundingClientRect();"
        "return [l.xaxis._offset + l.xaxis.d2p(100) - r.width / 2, l.yaxis._offset + l.yaxis.d2p(70) - r.height / 2]",
        plot,
    )
    ActionChains(driver).move_to_element_with_offset(plot, round(x), round(y)).pause(0.2).click().perform()
    wait(driver, "return document.getElementById('picked').dataset.point === '0'")
    assert bits(driver, "picked-strip") == ["4", "2", "4", "2", "4", "8", "4"]
    assert text(driver, "#picked-name") == "mixed 2/4"
    assert "70.0% [68.0, 72.0]" in text(driver, "#picked-figures")
    assert text(driver, "#picked-difference").startswith("6 of 7 sites have other bits")
    assert bits(driver, "chosen-strip") == ["8", "4", "8", "4", "8", "8", "8"]
    assert driver.get_log("browser") == []


def test_the_keyboard_picks_policies_and_sites(show: Opener, report: RunReport) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    driver = show(render(report))
    slider = driver.find_element(By.ID, "pick")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert text(driver, "#picked-name") == "mixed 8/8"
    assert "mixed 8/8, Top-1 90.0% [88.0, 92.0]," in slider.get_attribute("aria-valuetext")
    assert bits(driver, "picked-strip") == ["8"] * 7
    assert not driver.find_element(By.ID, "next").is_enabled()
    slider.send_keys(Keys.HOME)
    assert text(driver, "#picked-name") == "mixed 2/4"
    click(driver, By.ID, "to-chosen")
    assert text(driver, "#picked-name") == "mixed 4/8 (the chosen policy)"
    row = driver.find_element(By.CSS_SELECTOR, "#chosen-strip .weight [role=listbox]")
    row.send_keys(Keys.END)
    assert text(driver, "#chosen-strip .weight .readout").startswith(
        "head.<b>x</b>&\"'.weight 8 bits · linear · 10 × 4"
    )
    row.send_keys(Keys.ARROW_LEFT)
    assert text(driver, "#chosen-strip .weight .readout").startswith("body.conv.weight 4 bits")
    assert driver.get_log("browser") == []


def test_sensitivity_follows_its_selectors(show: Opener, report: RunReport) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    def rows() -> list[list[str]]:
        found = driver.execute_script(
            "return [...document.querySelectorAll('#sensitivity-table tbody tr')]"
            ".map((r) => [r.querySelector('.rank').textContent, r.querySelector('.site').textContent,"
            " r.querySelector('.value').textContent])"
        )
        return [list(map(str, row)) for row in found]

    driver = show(render(report))
    odd = "head.<b>x</b>&\"'.weight"
    assert rows()[:2] == [["1", odd, "0.0400 ± 0.0040"], ["2", "stem.relu", "0.0200 ± 0.0020"]]
    Select(driver.find_element(By.ID, "width")).select_by_value("2")
    assert rows()[0] == ["1", odd, "0.640 ± 0.064"]
    Select(driver.find_element(By.ID, "kind")).select_by_value("activation")
    assert [row[1] for row in rows()] == ["stem.relu", "input", "body.relu", "head"]
    Select(driver.find_element(By.ID, "order")).select_by_value("network")
    assert [row[:2] for row in rows()] == [["5", "input"], ["2", "stem.relu"], ["6", "body.relu"], ["7", "head"]]
    Select(driver.find_element(By.ID, "kind")).select_by_value("")
    Select(driver.find_element(By.ID, "method")).select_by_visible_text("fit")
    assert rows()[1] == ["4", "stem.conv.weight", "0.0150"]
    assert "gives no standard error" in text(driver, "#sensitivity-note")
    assert driver.get_log("browser") == []


def test_a_phone_does_not_scroll_sideways(show: Opener, report: RunReport, other: RunReport) -> None:
    prefix = "encoder_blocks_transformer_layer_with_a_name_without_any_dots_in_it"
    names = {site.name: f"{prefix}.{site.name}" for site in report.sites}
    longer = Sites(tuple(replace(s, name=names[s.name]) for s in report.sites), (), "abc123")
    tables = tuple(replace(t, sites=longer.names) for t in report.tables)
    driver = show(render(replace(report, sites=longer, tables=tables, title=prefix)), 375)
    for width in (375, 320):
        resize(driver, width)
        wait(driver, f"return document.querySelector('#front-plot .main-svg').clientWidth <= {width}")
        assert overflow(driver) <= 0
        driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        driver.execute_script("document.querySelector('#chosen-strip .bar').click()")
        assert overflow(driver) <= 0
    driver = show(render_compare([replace(report, title=prefix), other]), 375)
    assert driver.execute_script("return document.querySelectorAll('#overlay-plot .main-svg').length") > 0
    assert overflow(driver) <= 0
    assert driver.get_log("browser") == []
    assert loaded(driver) == []


def test_strips_of_deep_networks_scroll_in_their_box(show: Opener, empty: RunReport) -> None:
    first = empty.sites[0]
    deep = Sites(tuple(replace(first, name=f"layer{i // 40}.{i}") for i in range(160)))
    policy = Policy({site.name: 16 for site in deep}, name="W16")
    driver = show(render(replace(empty, sites=deep, chosen=Measured(policy))), 375)
    edges = driver.execute_script(
        "return [...document.querySelectorAll('#chosen-strip .bar')].map((b) => b.getBoundingClientRect())"
        ".map((r) => [r.left, r.right])"
    )
    assert len(edges) == 160
    assert all(right <= left + 0.01 for (_, right), (left, _) in zip(edges, edges[1:], strict=False))
    assert min(right - left for left, right in edges) >= 11.9
    assert overflow(driver) <= 0
    assert driver.execute_script("const r = document.querySelector('.strip-row'); return r.scrollWidth > r.clientWidth")


@pytest.mark.parametrize("width", [1280, 375])
def test_opened_tables_scroll_in_their_box(show: Opener, report: RunReport, width: int) -> None:
    driver = show(render(report), width)
    driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert overflow(driver) <= 0


def test_the_figures_fit_a_usual_window_with_every_cost(show: Opener, report: RunReport) -> None:
    assert report.chosen is not None
    chosen = replace(report.chosen, costs={**report.chosen.costs, "packed": 45678.0})
    other = replace(chosen, policy=replace(chosen.policy, name="bops=W4A4"))
    costs = {**report.float_costs, "packed": 345678.0}
    driver = show(render(replace(report, float_costs=costs, chosen=chosen, alternatives=(other,))), 1200)
    table = "document.querySelector('table.figures')"
    assert driver.execute_script(f"const b = {table}.parentNode; return b.scrollWidth - b.clientWidth") == 0
    lines = driver.execute_script(
        f"const r = document.createRange(); r.selectNode({table}.querySelector('.alternative th').firstChild);"
        "return r.getClientRects().length"
    )
    assert lines == 1  # the name is not broken


def test_dark_and_light_follow_the_system_and_the_button(show: Opener, report: RunReport) -> None:
    from selenium.webdriver.common.by import By

    def colours() -> tuple[str, str, str]:
        return tuple(  # type: ignore[return-value]
            driver.execute_script(
                "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
                " getComputedStyle(document.querySelector('#front-plot .xtick text')).fill]"
            )
        )

    driver = show(render(report), dark=True)
    page, ink, tick = colours()
    assert page == "rgb(18, 21, 24)"
    assert ink == tick == "rgb(231, 233, 236)"
    button = driver.find_element(By.ID, "theme")
    button.click()
    wait(
        driver, "return getComputedStyle(document.querySelector('#front-plot .xtick text')).fill === 'rgb(26, 29, 33)'"
    )
    assert colours()[:2] == ("rgb(247, 247, 245)", "rgb(26, 29, 33)")
    button.click()
    assert colours()[0] == "rgb(18, 21, 24)"
    assert button.text == "Colours: dark"
    driver = show(render(report))
    assert colours()[0] == "rgb(247, 247, 245)"
    assert driver.get_log("browser") == []


def test_text_has_enough_contrast_in_both_themes(show: Opener, report: RunReport) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for text; checked for every pair of text and background colours of the page."""
    script = """
    const style = getComputedStyle(document.documentElement);
    const canvas = document.createElement("canvas").getContext("2d");
    const light = (name) => {
      canvas.fillStyle = style.getPropertyValue(name).trim();
      const hex = canvas.fillStyle;
      const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      const part = (i) => linear(parseInt(hex.slice(i, i + 2), 16) / 255);
      return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const pairs = [];
    for (const ink of ["--text", "--muted", "--blue", "--orange"])
      for (const ground of ["--page", "--surface", "--sunk", "--fill"]) pairs.push([ink, ground, ratio(ink, ground)]);
    return pairs;
    """
    driver = show(render(report))
    for dark in (False, True):
        colour_scheme(driver, dark)
        weak = [pair for pair in driver.execute_script(script) if pair[2] < 4.5]
        assert weak == []


def test_copying_another_policy_gives_a_policy_file(show: Opener, report: RunReport) -> None:
    driver = show(render(report))
    driver.execute_script(
        "window.copied = null;"
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (t) => { window.copied = t; }}});"
        "document.querySelector('.show[data-point=\"0\"]').click();"
        "document.getElementById('copy-policy').click();"
    )
    wait(driver, "return window.copied !== null")
    policy = Policy.from_json(str(driver.execute_script("return window.copied")))
    assert report.front is not None
    assert dict(policy.bits) == dict(report.front[0].policy.bits)
    assert (policy.name, policy.graph_hash) == ("mixed 2/4", "abc123")
    policy.check(report.sites)


def test_a_page_without_plots_works(show: Opener, empty: RunReport) -> None:
    driver = show(render(empty))
    assert driver.get_log("browser") == []


def test_the_pages_of_debugging_fit_a_phone_and_say_nothing_on_the_console(show: Opener) -> None:
    site = "encoder_blocks_transformer_layer_with_a_name_without_any_dots_in_it.feed_forward.linear.weight"
    channels = tuple(float(i + 1) for i in range(40))
    nothing = (0.0,) * 40
    axis = AxisView(
        "embedding", 1, nothing, channels, tuple((0.0, 0.0, c / 2, c / 2, c) for c in channels), *(nothing,) * 3
    )
    view = TensorView(
        site,
        "weight",
        (8, 40),
        4,
        0.0,
        4.0,
        1.0,
        1.0,
        3.0,
        (0.0, 2.0, 4.0),
        (9, 1),
        (0.3,),
        (0.0,),
        (4.0,),
        0.1,
        0.2,
        9.0,
    )
    view = replace(view, axes=(axis,))
    row = SweepRow(site, (site,), (4,), 0.4, 0.1, 10.0, {"kl": 0.4, "agreement": 0.9, "accuracy": 0.5}, {})
    sweep = Sweep(
        (row,),
        {},
        row,
        (site,),
        64,
        Classification.measures,
        "kl",
        "accuracy",
        {"accuracy": 0.9},
        agreement="agreement",
    )
    recipe = Recipe(Policy({site: 4}, "", "W4A4")).then("limits", site=site, low=0.0, high=2.0)
    notes = (Measurement(f"range of {site}: 0 to 2", 0.1, 0.9, True, f"refused: {site}"),)
    step = Step(
        5, "Which layers?", "done", notes, "a rule", f"It is {site}.", "x", recipe, sweep=sweep, tensors=(view,)
    )
    findings = Findings((step,), 0.5, "holds", f"With the range 0 to 2 at {site}, W4A4 holds the target.")
    command = f"bitwright export --recipe out/recipe.json --model {site.replace('.', '_')}:build --output out"
    pages = (
        render_debug(findings, site, command),
        render_tensors([view], site, "A note."),
        render_sweep(sweep, sweep, site),
    )
    for page in pages:
        for width, dark in ((1280, False), (375, True)):
            driver = show(page, width, dark)
            driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert overflow(driver) <= 0
        assert driver.get_log("browser") == []
        assert loaded(driver) == []
    driver = show(pages[0])
    assert text(driver, "#apply") == command
    assert text(driver, "main section:last-of-type h2") == "Recommendation"
    assert driver.execute_script("return document.querySelectorAll('figure.tensor rect').length") > 40
