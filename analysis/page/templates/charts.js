// The charts: Vega-Lite of named data, drawn as SVG by an interpreter of expressions, which evaluates no text as code.

const views = new Map();
const FEW = 15; // points of a curve, and rows of a run, below which it is shown that they are few

/** Draws a chart anew with these data sets; `log`: whether its losses or values are; `domain`: of its x axis. */
async function draw(place, spec, datasets, { log = true, title, domain } = {}) {
  views.get(place)?.finalize();
  views.delete(place);
  const changed = JSON.parse(JSON.stringify(spec), (key, value) => {
    if (key === "y" && value.scale) value.scale = log ? { type: "log" } : { type: "linear", zero: false };
    if (key === "x" && domain) value.scale = { domain, nice: false };
    if (value?.title === "measured") value.title = title;
    return value;
  });
  changed.config.legend.columns = Math.max(1, Math.floor(place.clientWidth / 160));
  const { view } = await vegaEmbed(place, { ...changed, datasets },
    { mode: "vega-lite", renderer: "svg", actions: false, ast: true, logLevel: 1 });
  views.set(place, view);
  return view;
}

/** Gives a chart other data. */
function fill(place, datasets) {
  const view = views.get(place);
  for (const [name, rows] of Object.entries(datasets)) view?.data(name, rows);
  return view?.runAsync();
}

/** Calls back with the run that is clicked, and with the range that is dragged. */
function listen(view, choose, brushed) {
  view.addEventListener("click", (event, item) => {
    if (item?.datum?.id === undefined) return;
    byId("vg-tooltip-element")?.classList.remove("visible");
    choose(item.datum.i);
  });
  let waiting;
  view.addSignalListener("brush", (_, value) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => brushed(Object.values(value)[0] ?? null), 100);
  });
}

/** What all points of runs share: where they are drawn, and what is said of them. */
function points(rows, log, x) {
  const drawn = rows.filter((row) => x !== "q" || row.q > 0);
  const tips = drawn.map((row) => ({ ...row, tip: row.gone ? "diverged" : `loss ${said(row.loss)} at rate ${said(row.lr)}` }));
  const lanes = [...new Set(tips.filter((row) => row.gone).map((row) => row.lane))].sort((a, b) => a - b);
  const height = Math.min(9, 45 / lanes.length);
  const gone = tips.filter((row) => row.gone).map((row) => ({ ...row, top: 4 + height * lanes.indexOf(row.lane) }));
  return { gone, runs: tips.filter((row) => !row.gone && (log ? row.loss > 0 : row.loss !== null)) };
}

/** The run with a ring around it. */
function ringed({ gone, runs }, i) {
  const one = (rows) => rows.filter((row) => row.i === i);
  return { chosen: one(runs), chosen_gone: one(gone) };
}

/** A panel for each kind of curve that a run has, linked by the step under the pointer. */
async function drawCurves(data, i, log, pick) {
  const places = [];
  const domain = [0, Math.max(1, data.curves.last[i])];
  const kinds = Object.entries(PANELS).map(([panel, names]) => [panel, Object.entries(names)
    .filter(([column]) => column in data.curves.columns)
    .flatMap(([column, name]) => curve(data, column, i).map(([step, value]) => ({ name, step, value })))]);
  for (const [panel, rows] of kinds.filter(([, rows]) => rows.length)) {
    const place = element("div", { className: "chart", role: "img", ariaLabel: `Curves of the run: ${panel}; read below at one step` });
    const readout = element("figcaption");
    places.push({ place, rows, readout, figure: element("figure", {}, element("h3", { textContent: panel }), place, readout) });
  }
  for (const old of byId("curves").querySelectorAll(".chart")) views.get(old)?.finalize(), views.delete(old);
  byId("curves").replaceChildren(...places.map(({ figure }) => figure));
  await Promise.all(places.map(async ({ place, rows }) => {
    const drawn = coloured(rows.filter(({ value }) => !log || value > 0))
      .map((row, _, all) => ({ ...row, few: all.filter(({ name }) => name === row.name).length < FEW }));
    const view = await draw(place, data.charts.curve, { curve: drawn, at: [] }, { log: log && drawn.length > 0, domain });
    view.addEventListener("pointermove", (event) => pick(stepAt(view, place, event)));
  }));
  return places;
}

/** Points with the colours that the chart gives to their curves. */
function coloured(rows) {
  const names = [...new Set(rows.map(({ name }) => name))];
  return rows.map((row) => ({ ...row, color: `var(--mark-${names.indexOf(row.name)})` }));
}

function stepAt(view, place, event) {
  const left = place.querySelector("svg").getBoundingClientRect().left + view.origin()[0];
  return view.scale("x").invert(event.clientX - left);
}

/** Marks a step in all panels, and says what was measured there, or last before it. */
function mark(places, step, log) {
  for (const { place, rows, readout } of places) {
    const at = new Map();
    for (const row of rows) if (row.step <= step) at.set(row.name, row);
    const there = [...at.values()];
    const colors = new Map(coloured(rows.filter(({ value }) => !log || value > 0)).map(({ name, color }) => [name, color]));
    fill(place, { at: there.filter(({ value }) => !log || value > 0).map((row) => ({ ...row, color: colors.get(row.name) })) });
    readout.textContent = there.map((row) => `${row.name} ${said(row.value)}${row.step < step ? ` (step ${row.step})` : ""}`).join("; ");
  }
}
