// What is chosen, and what follows from it: filters, range of rates, run, order of the table.

let data, state, turn = 0;

/** Shows an experiment from the beginning, or at one of its runs. */
async function open(name, run) {
  const mine = ++turn, found = await unpacked(name);
  if (mine !== turn) return; // another was asked for meanwhile
  data = found;
  data.means = means(data);
  const axes = Object.fromEntries(data.axes.map(({ field, default: code }) => [field, code]));
  const quantity = (measured(data).find(({ column }) => column === "feature/Z_A") ?? measured(data)[0])?.column;
  state = { axes, seed: null, status: null, from: null, to: null, log: true, quantity, measure: null, text: "",
    sort: { k: columns(data).findIndex(({ ofLoss }) => ofLoss), down: false }, shown: PAGE, chosen: null };
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = !part.dataset.of.split(" ").includes(name);
  byId("experiment").value = name;
  byId("search").value = "";
  buildFilters();
  fillSelect(byId("quantity"), measured(data).map(({ column, name }) => [column, name]), quantity);
  describeAll();
  await drawAll();
  const row = data.rows.find(({ id }) => id === run);
  choose(row ? row.i : null, "scroll");
  if (run && !row) byId("chosen").textContent = `There is no run ${run} in ${name}.`;
}

/** Draws the charts anew, as a change of their axes needs it. */
async function drawAll() {
  const { rates, measure } = datasets(), options = { log: state.log, title: nameOf(state.quantity) };
  const upper = await draw(byId("rates"), data.charts.rates, rates, options);
  listen(upper, choose, (range) => {
    brushRates(range);
    update();
  });
  const lower = await draw(byId("measure"), data.charts.measure, measure, options);
  listen(lower, choose, (range) => ((state.measure = range), update()));
  update(); // to what has changed meanwhile
}

function nameOf(column) {
  return measured(data).find((each) => each.column === column)?.name ?? "measured";
}

/** After a change of what is shown. */
function update() {
  const { rates, measure } = datasets();
  fill(byId("rates"), rates);
  fill(byId("measure"), measure);
  tell();
}

/** The words and the table beside the charts. */
function tell() {
  const all = runsShown(), inside = ofRates(all), gone = inside.filter((row) => row.gone).length;
  const best = new Map();
  for (const cell of cellsShown()) {
    if (cell.loss !== null && !(best.get(cell.series)?.loss <= cell.loss)) best.set(cell.series, cell);
  }
  const lowest = [...best.values()].sort((a, b) => a.loss - b.loss);
  const more = lowest.length > 6 ? `; and ${lowest.length - 6} more` : "";
  answer();
  byId("reading").textContent = `${filtered(inside)}: ${counted(inside.length, "run")}, ${gone} diverged. Lowest mean of ${data.loss}: ` +
    (lowest.slice(0, 6).map(({ of, tip }) => `${of} ${tip}`).join("; ") || "none") + more;
  const lacking = inside.filter((row) => !(row.q > 0)).length, top = inside.filter((row) => row.gone && row.q > 0).length;
  byId("undrawn").textContent = [[top, "diverged: strokes at the top edge"], [lacking, "not drawn: no value above 0 of this quantity"]]
    .filter(([count]) => count).map(([count, what]) => `${counted(count, "run")} ${what}.`).join(" ");
  tabulate(inside.filter((row) => !state.measure || within(row.q, state.measure)));
}

/** The answer about the runs that are shown; where there is none, the first one, and that it is about others. */
function answer() {
  const place = [...document.querySelectorAll(".answer")].find((each) => each.dataset.of === data.name);
  if (!data.answers.length) return;
  const fits = (codes) => Object.entries(codes).every(([field, code]) => [null, code].includes(state.axes[field]));
  const found = data.answers.find(({ about, way }) => fits(about) && fits(way)) ?? data.answers.find(({ about }) => fits(about));
  const { text, about, way } = found ?? data.answers[0];
  const words = (fits(about) && fits(way) ? "" : "For other runs than those shown: ") + text;
  if (place.textContent !== words) place.textContent = words;
}

/** In words what the filters leave, and the rates of these runs. */
function filtered(rows) {
  const value = (field, code) => (code === null ? "all" : typed(data.runs.config[field].values[code]));
  const chosen = [["seed", state.seed], ["status", state.status]].filter(([, code]) => code !== null);
  const several = [...Object.entries(state.axes).filter(([field]) => data.runs.config[field].values.length > 1), ...chosen]
    .map(([field, code]) => `${field}=${value(field, code)}`);
  const rates = [...new Set(rows.map(({ lr }) => lr))].sort((a, b) => a - b), range = [...new Set([rates[0], rates.at(-1)])];
  return [...several, rates.length ? `${rates.length > 1 ? "rates" : "rate"} ${range.map(said).join(" to ")}` : "no rate"].join(", ");
}

function tabulate(rows) {
  const shown = columns(data);
  const found = sorted(rows.filter((row) => matches(row, shown, state.text)), shown[state.sort.k], state.sort.down);
  heading(shown, state.sort, (sort) => {
    state.sort = sort;
    tabulate(rows);
    byId("table").tHead.querySelectorAll("button")[sort.k].focus();
  });
  body(shown, found.slice(0, state.shown), state.chosen, choose);
  byId("count").textContent =
    `${found.length} of ${data.rows.length} runs are selected; the table shows ${Math.min(found.length, state.shown)}.`;
  byId("more").hidden = found.length <= state.shown;
}

/** Chooses a run, or none. `move`: whether the page goes there ("scroll"), or the keyboard, too ("focus"). */
function choose(i, move) {
  state.chosen = i;
  if (i !== null && !runsShown().some((row) => row.i === i)) showAround(i);
  const run = i === null ? "" : `&run=${encodeURIComponent(data.rows[i].id)}`;
  history.replaceState(null, "", `#experiment=${encodeURIComponent(data.name)}${run}`);
  update();
  showRun();
  if (move === "focus") byId("run").focus();
  else if (move && i !== null) byId("details").scrollIntoView({ block: "nearest" });
}

/** Filters that leave a run. */
function showAround(i) {
  for (const field of data.fields) if (state.axes[field] !== null) state.axes[field] = data.runs.config[field].codes[i];
  Object.assign(state, { seed: null, status: null });
  buildFilters();
}

/** The chosen run's curves, settings and results. */
async function showRun() {
  const { chosen: i } = state, row = data.rows[i];
  byId("details").hidden = i === null;
  byId("chosen").textContent = "No run is chosen.";
  if (i === null) return;
  const end = row.gone ? "diverged" : `${data.loss} ${said(row.loss)}`;
  byId("chosen").textContent = `Run ${row.id}: ${row.init}, rate ${said(row.lr)}, seed ${said(setting(data, "seed", i))}; ${end}.`;
  const rows = data.curves.rows[i];
  if (rows < FEW) byId("chosen").textContent += ` ${counted(rows, "logged step")} ${rows === 1 ? "is" : "are"} kept of this run.`;
  const results = Object.entries(data.runs.numbers).filter(([name]) => name !== LOSS).map(([name, values]) => [name, values[i]]);
  const settings = Object.keys({ ...data.runs.config, ...data.shared }).sort().map((name) => [name, setting(data, name, i)]);
  listTerms(byId("configuration"), [["run", row.id], ...results, ...settings, ...originOf(i)]);
  const places = await drawCurves(data, i, state.log, (step) => pick(nearest(step)));
  if (state.chosen !== i) return; // another was chosen meanwhile
  const steps = [...new Set(places.flatMap(({ rows }) => rows.map(({ step }) => step)))].sort((a, b) => a - b);
  const nearest = (step) => steps.reduce((best, each, k) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? k : best), 0);
  const pick = (k) => {
    byId("step").value = k;
    byId("at").textContent = `${steps[k]} of ${steps.at(-1)}`;
    mark(places, steps[k], state.log);
  };
  byId("step").max = steps.length - 1;
  byId("step").oninput = () => pick(Number(byId("step").value));
  pick(steps.length - 1);
}

function originOf(i) {
  return data.origins ? Object.entries(data.origins.values[data.origins.codes[i]]) : [];
}

/** What does not change with the filters. */
function describeAll() {
  const few = data.origins?.values ?? [];
  const origin = few.length === 1 ? originOf(0) : [["origins", data.origins ? `${few.length}; see each run` : "not in a record"]];
  listTerms(byId("shared"), [...Object.entries(data.shared), ...origin]);
}

function wanted() {
  const asked = new URLSearchParams(location.hash.slice(1));
  return asked.has("experiment") ? [asked.get("experiment"), asked.get("run")] : null;
}

/** Shows what is asked for, or says that it is not there. */
async function visit([name, run]) {
  const names = [...byId("experiment").options].map(({ value }) => value);
  await open(names.includes(name) ? name : names[0], names.includes(name) ? run : null);
  if (!names.includes(name)) byId("chosen").textContent = `There is no experiment ${name} in this page.`;
}

byId("experiment").addEventListener("change", (event) => open(event.target.value));
byId("search").addEventListener("input", (event) => ((state.text = event.target.value), tell()));
byId("more").addEventListener("click", showMore);
byId("unchoose").addEventListener("click", () => choose(null, "focus"));
byId("quantity").addEventListener("change", (event) => ((state.quantity = event.target.value), (state.measure = null), drawAll()));
byId("clear").addEventListener("click", () => {
  Object.assign(state, { from: null, to: null, measure: null, seed: null, status: null, text: "" });
  byId("search").value = "";
  buildFilters();
  drawAll();
});
window.addEventListener("hashchange", () => {
  const asked = wanted();
  if (asked && (asked[0] !== data?.name || asked[1] !== (data.rows[state.chosen]?.id ?? null))) visit(asked);
});
for (const link of document.querySelectorAll("a[href^='#']")) link.addEventListener("click", (event) => {
  event.preventDefault(); // the address keeps the experiment and the run
  const place = byId(link.hash.slice(1));
  place.tabIndex = -1;
  place.focus({ preventScroll: true });
  place.scrollIntoView();
});
let width = innerWidth, resized;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    if (!data || innerWidth === width) return; // the bars of a telephone's browser come and go
    width = innerWidth;
    drawAll();
    showRun();
  }, 200);
});
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) part.dataset.closed = part.open = true;
});
window.addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-closed]")) (part.open = false), delete part.dataset.closed;
});
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" ||
  (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
byId("theme").ariaPressed = dark();
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  byId("theme").ariaPressed = dark();
});
visit(wanted() ?? [byId("experiment").value]);
