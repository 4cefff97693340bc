from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from bitwright.errors import MissingExtra
from bitwright.report import RunReport, render, render_compare
from bitwright.report.render import plain, script_json

ODD_ESCAPED = "head.<wbr>&lt;b&gt;x&lt;/<wbr>b&gt;&amp;&#34;&#39;.<wbr>weight"


class Page(HTMLParser):
    """Elements, their attributes, and the text of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[self.inside].append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.elements if tag == name]


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("bitwright.report.render")
    monkeypatch.setattr(module, "_plotly_script", lambda: "window.Plotly = null;")


def page_data(html: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])  # type: ignore[index]


def test_the_page_loads_nothing(report: RunReport, other: RunReport) -> None:
    for html in (render(report), render_compare([report, other])):
        page = Page(html)
        for tag, attrs in page.elements:
            for name in ("src", "href", "data", "srcset", "action", "poster"):
                value = attrs.get(name) or ""
                assert value == "" or value.startswith(("#", "data:")), (tag, name, value)
        policy = next(a for a in page.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")["content"]
        assert policy is not None
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert not re.search(r"@import|url\(|https?:", "".join(page.raw["style"]))
        own = [text for text in page.raw["script"] if len(text) < 500_000]
        assert own
        assert not any(re.search(r"https?://", text) for text in own)
        assert "plotly.js v" in html


def test_names_never_become_markup(report: RunReport, other: RunReport, without_plotly: None) -> None:
    for html in (render(report), render_compare([report, other, replace(report, chosen=None)])):
        page = Page(html)
        assert ODD_ESCAPED in html
        assert "<net>" not in html
        assert "<i>c" not in html
        assert "alert(1)</script>" not in html
        assert len(page.tags("script")) == 4
        titles = re.findall(r"<title>(.*?)</title>", html)
        assert "&lt;net&gt;" in titles[0]
    html = render(report)
    assert page_data(html)["sites"][5]["name"] == "head.<b>x</b>&\"'.weight"
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html
    assert "F1 &lt;macro&gt;" in html


def test_every_section_is_there_in_order(report: RunReport, without_plotly: None) -> None:
    html = render(report)
    found = [a["id"] for a in Page(html).tags("section") if "id" in a]
    assert found == [
        "asked", "figures", "front", "agreement", "sensitivity", "bits", "parity", "latency", "environment",
        "reproduce",
    ]  # fmt: skip
    for target in [a["href"] for a in Page(html).tags("a")]:
        assert target is not None
        assert f'id="{target[1:]}"' in html
    text = " ".join(re.sub(r"<[^>]*>", " ", html.split('<script type="application/json"')[0]).split())
    for part in (
        "88.0% [86.0, 90.0] top-1 (float 90.0%, −2.0 points [−3.0, −1.0]), 5 x smaller, 5 x fewer bit operations",
        "data.calibration digits",
        "slower than float: 1.20 x the float latency at batch 32",
        "1 4.00 ms 2.00 ms 0.50 x the float latency 32 25.0 ms 30.0 ms 1.20 x the float latency",
        "3 sites at 3 bits are stored as 4-bit",
        "capture 500 ms search 1 min 15 s",
        "Calibrated on few inputs.",
        "199 of 200 inputs 99.50% 1.00 output steps",
    ):
        assert part in text, part
    assert text.count("not measured") == 1


def test_the_first_screen_says_what_stays_in_float(report: RunReport, partly: RunReport, without_plotly: None) -> None:
    lead = render(partly).partition('id="asked"')[0]
    assert "Whatever the policy, 50.0% of the multiply-accumulates and 0% of the weights stay in float" in lead
    assert "conv9d&lt;x&gt; (&#39;body.mix&#39;; 50.0% of the multiply-accumulates) stays in float" in lead
    assert "Whatever the policy" not in render(report)


def test_what_is_missing_is_said(empty: RunReport, report: RunReport) -> None:
    html = render(empty)
    for sentence in (
        "The settings of this run were not recorded.",
        "No policy was measured, so there are no figures but costs.",
        "No search was run, so there is no front to show.",
        "No policies were both predicted and measured, so the predictions were not checked.",
        "No sensitivity was computed.",
        "No policy was chosen.",
        "No file was exported, so there is nothing to compare with the simulation.",
        "Latency was not measured.",
        "The environment was not recorded.",
        "The command was not recorded.",
    ):
        assert sentence in html
    assert len(html) < 200_000, "a page without plots does not carry the plotting library"
    half = render(replace(report, parity=None))
    assert "A file was exported, but not compared with the simulation." in half


def test_the_page_gets_the_panels(report: RunReport, without_plotly: None) -> None:
    data = page_data(render(report))
    assert data["chosen"] == [8, 4, 8, 4, 8, 8, 8]
    assert [p["label"] for p in data["front"]["points"]] == ["mixed 2/4", "W4A4", "mixed 4/4", "mixed 4/8", "mixed 8/8"]
    assert data["front"]["points"][0]["figures"]["accuracy"]["value"] == 0.7
    assert [t["method"] for t in data["sensitivity"]] == ["margin-fit", "fit"]
    assert data["sensitivity"][1]["standard_error"] is None
    assert len(data["agreement"]) == 1


def test_compare_overlays_fronts_over_the_same_cost_only(
    report: RunReport, other: RunReport, without_plotly: None
) -> None:
    html = render_compare([report, other])
    assert [item["label"] for item in page_data(html)["overlay"]] == ["Tiny <net> & friends", "Other"]
    assert "+2.0 points [−0.8, +4.8]" in html
    assert other.front is not None
    bops = replace(other, front=replace(other.front, cost="bops"))
    html = render_compare([report, bops])
    assert page_data(html)["overlay"] == []
    assert "The runs have no fronts over the same cost." in html


def test_script_json_is_safe_and_finite() -> None:
    text = script_json({"a": "</script><!--", "b": float("nan"), "c": (1, float("inf")), "d": "&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--", "b": None, "c": [1, None], "d": "&\u2028"}
    assert plain({1: None}) == {"1": None}


@pytest.mark.parametrize(("module", "package"), [("plotly.offline", "plotly"), ("jinja2", "jinja2")])
def test_a_missing_package_names_the_extra(
    report: RunReport, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"'{package}' is needed to write the HTML report .*bitwright\[report\]"):
        render(report)
