// The plots: Pareto front with its picker, predicted against measured, fronts of compared runs.
const palette = () => {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return { text: read("--text"), muted: read("--muted"), grid: read("--grid"), line: read("--line"), blue: read("--blue"), orange: read("--orange"), green: read("--green"), grey: read("--grey"), surface: read("--surface") };
};
const coarse = matchMedia("(pointer: coarse)").matches;
const narrow = () => innerWidth < 640;
const config = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: "reset" };
const escapeText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function axis(colours, extra) {
  return { gridcolor: colours.grid, zeroline: false, linecolor: colours.line, tickcolor: colours.line, automargin: true, fixedrange: coarse, exponentformat: "power", ...extra };
}
function layout(colours, extra) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", hoverdistance: 30, dragmode: coarse ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.text },
    hoverlabel: { bgcolor: colours.surface, bordercolor: colours.line, font: { color: colours.text }, align: "left" },
    margin: { l: 46, r: 14, t: 26, b: 46 }, legend: { orientation: "h", x: 0, xanchor: "left", y: -0.13, yanchor: "top", font: { size: 12 } }, ...extra,
  };
}
const heading = (text, y) => ({ text, xref: "paper", yref: "paper", x: 0, y, xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12.5 }, align: "left" });
const spread = (values) => {
  const positive = values.filter((v) => v > 0);
  return positive.length ? Math.max(...positive) / Math.min(...positive) : 1;
};
// Ticks that read well on a logarithmic axis over a small range: 1, 2, 5, 10, ...
function logTicks(values) {
  const positive = values.filter((v) => v > 0);
  const low = Math.min(...positive), high = Math.max(...positive), ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) for (const m of [1, 2, 5]) ticks.push(m * 10 ** e);
  return ticks.filter((t) => t >= low * 0.7 && t <= high * 1.4);
}
const ticks = (values) => {
  const all = logTicks(values);
  const sparse = all.length > 9 ? all.filter((t) => Math.abs(Math.log10(t) - Math.round(Math.log10(t))) < 1e-9) : all;
  return { tickvals: sparse, ticktext: sparse.map((t) => (t >= 1e-4 && t < 1e6 ? String(Number(t.toPrecision(2))) : t.toExponential(0))) };
};

const roles = [
  ["front", "front", "circle", "blue", 9],
  ["baseline", "to compare with", "diamond", "orange", 10],
  ["chosen", "chosen", "star", "green", 15],
];
const whiskers = (intervals, factor, colour) => ({
  type: "data", symmetric: false, thickness: 1.3, width: 3, color: colour,
  array: intervals.map((v) => (v.high - v.value) * factor),
  arrayminus: intervals.map((v) => Math.max(0, (v.value - v.low) * factor)),
});

if (data.front) {
  const front = data.front;
  const plot = byId("front-plot");
  let selected = front.selected;
  const x = (point) => point.cost / front.divisor;
  const hover = (i) => `<b>${escapeText(front.points[i].label)}</b><br>` + data.figures[i].map(([name, value]) => `${escapeText(name)}: ${escapeText(minus(value))}`).join("<br>");

  function traces(colours, measure) {
    const kind = measure ? measure.name : "";
    const factorOf = measure ? measure.factor : 1;
    const indexed = front.points.map((point, i) => ({ ...point, i }));
    const out = [];
    const measured = indexed.filter((p) => p.figures[kind] && p.figures[kind].value !== null);
    const path = measured.filter((p) => p.role !== "baseline");
    if (path.length > 1) out.push({ x: path.map(x), y: path.map((p) => p.figures[kind].value * factorOf), mode: "lines", line: { color: colours.blue, width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false });
    const dearest = Math.max(...front.points.map(x));
    const positive = indexed.map((p) => p.predicted).filter((v) => v > 0);
    const floor = positive.length ? Math.min(...positive) / 2 : 0;
    const lower = indexed.filter((p) => p.predicted !== null);
    const line = lower.filter((p) => p.role !== "baseline");
    if (line.length > 1) out.push({ x: line.map(x), y: line.map((p) => p.predicted), yaxis: "y2", mode: "lines", line: { color: colours.blue, width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false });
    for (const [role, name, symbol, colour, size] of roles) {
      const marker = { symbol, size, color: colours[colour], line: { width: 1, color: colours.surface } };
      const upper = measured.filter((p) => p.role === role);
      const under = lower.filter((p) => p.role === role);
      const label = role === "baseline" && !narrow() ? { mode: "markers+text", textposition: upper.map((p) => (x(p) > 0.7 * dearest ? "middle left" : "middle right")), textfont: { color: colours.orange, size: 11 } } : { mode: "markers" };
      if (upper.length) out.push({ x: upper.map(x), y: upper.map((p) => p.figures[kind].value * factorOf), customdata: upper.map((p) => p.i), ...label, text: upper.map((p) => escapeText(p.label)), name, legendgroup: role, marker, error_y: whiskers(upper.map((p) => p.figures[kind]), factorOf, colours[colour]), hovertemplate: upper.map((p) => `${hover(p.i)}<extra></extra>`) });
      if (under.length) out.push({ x: under.map(x), y: under.map((p) => p.predicted), customdata: under.map((p) => p.i), yaxis: "y2", mode: "markers", name, legendgroup: role, showlegend: !upper.length, marker, hovertemplate: under.map((p) => `${hover(p.i)}<extra></extra>`) });
    }
    const point = front.points[selected];
    const ring = { symbol: "circle-open", size: 24, color: colours.text, line: { width: 2 } };
    out.push({ x: [x(point)], y: [point.figures[kind] ? point.figures[kind].value * factorOf : null], mode: "markers", marker: ring, hoverinfo: "skip", name: "shown below", showlegend: false });
    out.push({ x: [x(point)], y: [point.predicted], yaxis: "y2", mode: "markers", marker: ring, hoverinfo: "skip", showlegend: false });
    return { out, anyMeasured: measured.length > 0, logarithmic: spread(positive) > 20, values: positive, floor };
  }

  function draw() {
    const colours = palette();
    const measure = front.measures[Number(byId("measure").value)];
    const made = traces(colours, measure);
    const unit = `Predicted by ${escapeText(front.method)} (${escapeText(front.unit)})`;
    const shapes = [], annotations = [heading(unit, made.anyMeasured ? 0.41 : 1.0)];
    if (made.anyMeasured) annotations.push(heading(`Measured: ${escapeText(measure.heading)}`, 1.0));
    if (made.anyMeasured && measure === front.measures[0] && front.reference) {
      const a = front.reference, scale = measure.factor;
      shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: a.low * scale, y1: a.high * scale, fillcolor: colours.grey, opacity: 0.16, line: { width: 0 }, layer: "below" });
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: a.value * scale, y1: a.value * scale, line: { color: colours.grey, width: 1.3 }, layer: "below" });
      annotations.push({ text: scale === 100 ? `float ${(a.value * 100).toFixed(1)}%` : `float ${significant(a.value)}`, xref: "paper", x: 0, xanchor: "left", y: a.value * scale, yanchor: "bottom", showarrow: false, font: { size: 11, color: colours.muted } });
    }
    const costs = front.points.map(x);
    const across = front.logarithmic ? { type: "log", ...ticks(costs) } : {};
    const up = made.logarithmic ? { type: "log", ...ticks(made.values), range: [Math.log10(made.floor * 0.9), Math.log10(Math.max(...made.values) * 1.6)] } : { rangemode: "tozero" };
    Plotly.react(plot, made.out, layout(colours, {
      xaxis: axis(colours, { title: { text: escapeText(front.axis), standoff: 8 }, anchor: "y2", ...across }),
      yaxis: axis(colours, { domain: made.anyMeasured ? [0.5, 1] : [0.99, 1], visible: made.anyMeasured }),
      yaxis2: axis(colours, { domain: made.anyMeasured ? [0, 0.4] : [0, 1], ...up }),
      shapes, annotations,
    }), config);
  }

  function picked() {
    const point = front.points[selected];
    byId("pick").value = selected;
    byId("pick").setAttribute("aria-valuetext", `${point.label}, ${data.figures[selected].map(([name, value]) => `${name} ${value}`).join(", ")}`);
    byId("picked").dataset.point = selected;
    byId("picked-name").textContent = point.role === "chosen" ? `${point.label} (the chosen policy)` : point.label;
    byId("picked-search").textContent = point.search ? `${point.search}.` : "";
    byId("picked-figures").replaceChildren(...[
      ...data.figures[selected],
      ...(point.mean_weight_bits === null ? [] : [["Mean bits, weights", point.mean_weight_bits.toFixed(2)]]),
      ...(point.mean_activation_bits === null ? [] : [["Mean bits, activations", point.mean_activation_bits.toFixed(2)]]),
    ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...figure(value)))));
    const other = data.chosen ? point.bits.filter((b, i) => b !== data.chosen[i]).length : 0;
    byId("picked-difference").textContent = data.chosen && point.role !== "chosen" ? `${other} of ${point.bits.length} sites have other bits than the chosen policy (underlined).` : "";
    strip(byId("picked-strip"), point.bits, point.role === "chosen" ? null : data.chosen);
    byId("previous").disabled = selected === 0;
    byId("next").disabled = selected === front.points.length - 1;
  }
  function select(i) {
    if (i < 0 || i >= front.points.length) return;
    selected = i;
    picked();
    draw();
  }
  function policyFile() {
    const point = front.points[selected];
    const quoted = (v) => JSON.stringify(v);
    const body = point.bits.map((b, i) => (b === null ? null : `    ${quoted(data.sites[i].name)}: ${b}`)).filter((line) => line !== null).join(",\n");
    return `{\n  "bitwright": "policy",\n  "version": 1,\n  "name": ${quoted(point.label)},\n  "graph": ${quoted(point.graph_hash)},\n  "bits": {\n${body}\n  }\n}\n`;
  }
  draw();
  picked();
  plot.on("plotly_click", (event) => {
    const hit = event.points.find((p) => p.customdata !== undefined);
    if (hit) select(Number(hit.customdata));
  });
  byId("pick").addEventListener("input", () => select(Number(byId("pick").value)));
  byId("previous").addEventListener("click", () => select(selected - 1));
  byId("next").addEventListener("click", () => select(selected + 1));
  byId("to-chosen").addEventListener("click", () => select(front.selected));
  byId("to-chosen").hidden = !data.chosen;
  byId("measure").addEventListener("change", draw);
  byId("copy-policy").addEventListener("click", () => copyText(policyFile(), byId("copy-policy")));
  for (const button of document.querySelectorAll(".show")) {
    button.addEventListener("click", () => {
      select(Number(button.dataset.point));
      byId("picked").scrollIntoView({ block: "nearest" });
    });
  }
  redraws.push(draw);
}

if (data.agreement && data.agreement.length) {
  const chooser = byId("agreement-method");
  const draw = () => {
    const colours = palette();
    const panel = data.agreement[chooser ? Number(chooser.value) : 0];
    const pairs = panel.pairs, same = panel.unit === panel.measured_unit; // then the diagonal means "exact"
    const interval = pairs.map((p) => ({ value: p.measured, low: p.low === null ? p.measured : p.low, high: p.high === null ? p.measured : p.high }));
    const out = [];
    if (same) {
      const top = Math.max(...pairs.map((p) => Math.max(p.predicted, p.measured)));
      out.push({ x: [0, top], y: [0, top], mode: "lines", line: { color: colours.grey, width: 1, dash: "dash" }, name: "exact", hoverinfo: "skip" });
    }
    out.push({
      x: pairs.map((p) => p.predicted), y: pairs.map((p) => p.measured), mode: "markers", name: "policy", showlegend: same,
      marker: { color: colours.blue, size: 8, opacity: 0.8, line: { width: 1, color: colours.surface } },
      error_y: pairs.some((p) => p.low !== null) ? { ...whiskers(interval, 1, colours.grey), thickness: 1, width: 0 } : undefined,
      hovertemplate: pairs.map((p) => `<b>${escapeText(p.name)}</b><br>predicted ${significant(p.predicted)}<br>measured ${significant(p.measured)}${p.low === null ? "" : ` [${significant(p.low)}, ${significant(p.high)}]`}<extra></extra>`),
    });
    const wide = !same && spread(pairs.map((p) => p.predicted)) > 20;
    Plotly.react(byId("agreement-plot"), out, layout(colours, {
      xaxis: axis(colours, { title: { text: `Predicted: ${escapeText(panel.unit)}`, standoff: 8 }, ...(wide ? { type: "log", ...ticks(pairs.map((p) => p.predicted)) } : {}) }),
      yaxis: axis(colours, same ? { rangemode: "tozero" } : {}), annotations: [heading(`Measured: ${escapeText(panel.measured_unit)}`, 1.0)], legend: narrow() ? { orientation: "h", x: 0, xanchor: "left", y: -0.28, yanchor: "top" } : { orientation: "h", x: 1, xanchor: "right", y: 1.0, yanchor: "bottom" },
    }), config);
  };
  if (chooser) chooser.addEventListener("change", draw);
  draw();
  redraws.push(draw);
}

if (data.overlay && data.overlay.length) {
  const symbols = ["circle", "diamond", "square", "triangle-up", "cross"];
  const draw = () => {
    const colours = palette();
    const series = [colours.blue, colours.orange, colours.green, colours.grey, colours.text];
    const first = (front) => (front.measures.length ? front.measures[0] : null);
    const shown = data.overlay.map((item) => first(item.front)).find((m) => m);
    const measured = Boolean(shown) && data.overlay.every((item) => !first(item.front) || first(item.front).name === shown.name);
    const divisor = Math.max(...data.overlay.map((item) => item.front.divisor));
    const shared = data.overlay.find((item) => item.front.divisor === divisor).front;
    const out = data.overlay.map((item, i) => {
      const points = item.front.points.filter((p) => (measured ? p.figures[shown.name] : p.predicted !== null));
      return {
        x: points.map((p) => p.cost / divisor), y: points.map((p) => (measured ? p.figures[shown.name].value * shown.factor : p.predicted)), mode: "lines+markers", name: escapeText(item.label),
        line: { color: series[i % 5], width: 1, dash: "dot" }, marker: { color: series[i % 5], symbol: symbols[i % 5], size: 9 },
        error_y: measured ? whiskers(points.map((p) => p.figures[shown.name]), shown.factor, series[i % 5]) : undefined,
        hovertemplate: points.map((p) => `<b>${escapeText(p.label)}</b><br>%{x:.4g}<br>%{y:.4g}<extra>${escapeText(item.label)}</extra>`),
      };
    });
    const costs = data.overlay.flatMap((item) => item.front.points.map((p) => p.cost / divisor));
    Plotly.react(byId("overlay-plot"), out, layout(colours, {
      xaxis: axis(colours, { title: { text: escapeText(shared.axis), standoff: 8 }, ...(spread(costs) > 8 ? { type: "log", ...ticks(costs) } : {}) }),
      yaxis: axis(colours), annotations: [heading(measured ? `Measured: ${escapeText(shown.heading)}` : "Predicted harm, each in its own unit", 1.0)],
      legend: { orientation: "h", x: 0, xanchor: "left", y: -0.2, yanchor: "top" },
    }), config);
  };
  draw();
  redraws.push(draw);
}
applyTheme();
document.documentElement.dataset.bitwrightReady = "";
