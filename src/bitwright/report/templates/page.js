// Data, colours, strips of bits, the sensitivity table, copying. Plots are in plots.js.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const minus = (text) => text.replace(/(^|[\s\[(])-(?=\d)/g, "$1\u2212");

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// The same as format.significant in Python.
function significant(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size < -4 || size > 6) return minus(value.toExponential(digits - 1).replace(/e([+-])(\d)$/, "e$10$2"));
  const places = Math.max(0, digits - 1 - size);
  return minus(value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places }));
}

// Colours: the system's, or the reader's choice, kept for the next report where the browser allows it.
const redraws = [];
const themes = ["system", "light", "dark"];
let theme = "system";
try { theme = localStorage.getItem("bitwright-theme") || "system"; } catch { /* storage is off */ }
function applyTheme() {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Colours: ${theme}`;
  byId("theme").setAttribute("aria-label", `Colours: ${theme === "system" ? "as the system" : theme}`);
  for (const redraw of redraws) redraw();
}
byId("theme").addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  try { localStorage.setItem("bitwright-theme", theme); } catch { /* storage is off */ }
  applyTheme();
});
if (!themes.includes(theme)) theme = "system";
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);

// A site's name that may break after its dots.
function siteName(name) {
  const node = element("span", { class: "site" });
  for (const part of name.split(/(?<=\.)/)) node.append(part, element("wbr", {}));
  return node;
}

// A figure with its interval on one unbroken piece.
function figure(text) {
  const [value, interval] = minus(text).split(" [");
  return interval === undefined ? [value] : [`${value} `, element("span", { class: "interval" }, `[${interval}`)];
}

async function copyText(text, button) {
  const label = button.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  button.textContent = done ? "Copied" : "Select and copy by hand";
  setTimeout(() => { button.textContent = label; }, 1600);
}
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => copyText(byId(button.dataset.copy).textContent, button));
}

// Strips: one bar a site, along the network. `bits` has one entry a site, null for float.
const bitsText = (bits) => (bits === null ? "float" : `${bits} bits`);
function strip(holder, bits, reference) {
  const tallest = Math.max(8, ...bits.filter((b) => b !== null));
  holder.replaceChildren();
  for (const [kind, title] of [["weight", "Weights"], ["activation", "Activations"]]) {
    const stages = data.stages[kind];
    const count = stages.reduce((sum, stage) => sum + stage.positions.length, 0);
    if (!count) continue;
    const readout = element("p", { class: "readout", "aria-live": "polite" }, "Tap a bar, or use the arrow keys, for its site.");
    const row = element("div", {
      class: "strip-row", role: "listbox", tabindex: 0,
      "aria-label": `${title}: bits of ${count} sites in the order of execution`,
    });
    const bars = [];
    const show = (i, scroll) => {
      bars.forEach((bar, j) => {
        bar.classList.toggle("active", i === j);
        bar.setAttribute("aria-selected", i === j);
      });
      const site = data.sites[Number(bars[i].dataset.site)];
      row.setAttribute("aria-activedescendant", bars[i].id);
      row.dataset.active = i;
      const name = element("b", {});
      name.textContent = site.name;
      const other = reference && reference[site.position] !== bits[site.position]
        ? ` (chosen policy: ${bitsText(reference[site.position])})` : "";
      readout.replaceChildren(name, ` ${bitsText(bits[site.position])}${other} · ${site.operation || site.kind} · ${site.shape.join(" × ")} · ${site.scheme}`);
      if (scroll) bars[i].scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    for (const stage of stages) {
      const inside = element("div", { class: "stage-bars", role: "presentation" });
      for (const position of stage.positions) {
        const value = bits[position];
        const other = reference && reference[position] !== value;
        const bar = element("div", {
          class: `bar${value === null ? " float" : ""}${other ? " other" : ""}`, role: "option", "aria-selected": false,
          id: `${holder.id}-${position}`, "data-site": position, "data-bits": value === null ? "float" : value,
          "aria-label": `${data.sites[position].name}: ${bitsText(value)}`,
        }, element("span", {}, value === null ? "f" : String(value)),
        element("i", { style: `height:${(value === null ? 1 : value / tallest) * 84}%` }));
        const index = bars.push(bar) - 1;
        bar.addEventListener("click", () => show(index, false));
        inside.append(bar);
      }
      const label = element("div", { class: "stage-label", title: stage.label, "aria-hidden": "true" });
      label.textContent = stage.label;
      row.append(element("div", { class: "stage", role: "group", "aria-label": stage.label, style: `flex-grow:${stage.positions.length};min-width:${13 * stage.positions.length}px` }, inside, label));
    }
    row.addEventListener("keydown", (event) => {
      const active = row.dataset.active === undefined ? -1 : Number(row.dataset.active);
      const next = { ArrowRight: active + 1, ArrowDown: active + 1, ArrowLeft: active - 1, ArrowUp: active - 1, Home: 0, End: bars.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(Math.min(bars.length - 1, Math.max(0, next)), true);
    });
    const caption = element("figcaption", {}, `${title} `, element("span", {}, `${count} sites, bits of each${stages.some((stage) => stage.positions.some((i) => bits[i] === null)) ? " (f: float)" : ""}`));
    holder.append(element("figure", { class: `strip ${kind}` }, caption, row, readout));
  }
}
if (byId("chosen-strip")) strip(byId("chosen-strip"), data.chosen, null);

// Sensitivity: a table with bars.
const FIRST_ROWS = 15;
if (byId("sensitivity-table")) {
  const body = byId("sensitivity-table").tBodies[0];
  let all = false;
  const fillWidths = () => {
    const panel = data.sensitivity[Number(byId("method").value)];
    const kept = Number(byId("width").value) || panel.start;
    byId("width").replaceChildren(...panel.bits.map((b) => element("option", { value: b, selected: b === (panel.bits.includes(kept) ? kept : panel.start) }, String(b))));
  };
  const draw = () => {
    const panel = data.sensitivity[Number(byId("method").value)];
    const column = panel.bits.indexOf(Number(byId("width").value));
    const kind = byId("kind").value;
    const rows = panel.sites.map((name, i) => ({
      name, kind: panel.kinds[i], harm: panel.harm[i][column], position: i, doubt: panel.doubts[i],
      error: panel.standard_error ? panel.standard_error[i][column] : null,
    }));
    [...rows].sort((a, b) => b.harm - a.harm || a.position - b.position).forEach((row, i) => { row.rank = i + 1; });
    if (byId("order").value === "harm") rows.sort((a, b) => a.rank - b.rank);
    const kept = rows.filter((row) => !kind || row.kind === kind);
    const top = Math.max(...kept.map((row) => row.harm + (row.error || 0)), Number.MIN_VALUE);
    const shown = all ? kept : kept.slice(0, FIRST_ROWS);
    const share = (value) => `${Math.min(100, Math.max(0, 100 * value / top))}%`;
    body.replaceChildren(...shown.map((row) => {
      const bar = element("span", { class: "harm", "aria-hidden": "true" }, element("i", { style: `width:${share(row.harm)}` }));
      if (row.error) bar.append(element("b", { style: `left:${share(row.harm - row.error)};width:calc(${share(row.harm + row.error)} - ${share(row.harm - row.error)})` }));
      return element("tr", { role: "row", class: row.kind || "unknown" },
        element("td", { role: "cell", class: "rank" }, String(row.rank)),
        element("th", { role: "rowheader", scope: "row", class: "name" }, element("span", { class: "dot", "aria-hidden": "true" }), siteName(row.name), element("span", { class: "hidden" }, ` (${row.kind || "site"})`), ...(row.doubt ? [element("small", { class: "muted" }, ` not trusted: ${row.doubt}`)] : [])),
        element("td", { role: "cell", class: "drawn" }, bar),
        element("td", { role: "cell", class: "value" }, row.error === null ? significant(row.harm) : `${significant(row.harm)} ± ${significant(row.error, 2)}`));
    }));
    byId("harm-unit").textContent = `Predicted harm (${panel.unit})`;
    byId("sensitivity-caption").textContent = `${kept.length} sites at ${panel.bits[column]} bits, ${byId("order").value === "harm" ? "worst first" : "along the network"}; harm in ${panel.unit}`;
    byId("sensitivity-note").replaceChildren(
      `${panel.method} over ${panel.samples.toLocaleString("en-US")} inputs. ${panel.standard_error ? "± is one standard error." : "This method gives no standard error."} `,
      element("span", { style: "white-space:nowrap" }, element("span", { class: "dot", style: "background:var(--blue)" }), "weights"), " ",
      element("span", { style: "white-space:nowrap" }, element("span", { class: "dot", style: "background:var(--orange);border-radius:50%" }), "activations"),
      ...panel.notes.map((note) => ` ${note}`));
    const button = byId("all-sites");
    button.hidden = kept.length <= FIRST_ROWS;
    button.textContent = all ? `Show the first ${FIRST_ROWS}` : `Show all ${kept.length} sites`;
  };
  byId("method").addEventListener("change", () => { fillWidths(); draw(); });
  for (const id of ["width", "kind", "order"]) byId(id).addEventListener("change", draw);
  byId("all-sites").addEventListener("click", () => { all = !all; draw(); });
  fillWidths();
  draw();
}
