// Which runs and means are shown: by the axes of the configuration, by seed, status and a range of rates.

const BESIDE = 1.06; // how far a range is drawn beyond its rates, so that one of a single rate is seen

function fillSelect(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, text]) => element("option", { value: key, textContent: text })));
  select.value = value;
}

/** A select for each axis, the seed, the status and the ends of the rates, and whether losses are drawn on a log axis. */
function buildFilters() {
  const config = data.runs.config;
  const codes = (field) => [["", "all"], ...config[field].values.map((value, code) => [code, typed(value)])];
  const add = (name, pairs, value, change) => {
    const select = element("select", { name });
    fillSelect(select, pairs, value ?? "");
    select.addEventListener("change", () => (change(select.value === "" ? null : Number(select.value)), update()));
    return element("label", { textContent: name }, select);
  };
  const form = byId("filters"), rates = config[RATE].values;
  const ends = [["", "any"], ...rates.map((rate) => [rate, said(rate)])];
  const log = element("input", { type: "checkbox", checked: state.log });
  log.addEventListener("change", () => ((state.log = log.checked), drawAll(), showRun()));
  form.replaceChildren(
    ...data.fields.filter((field) => config[field].values.length > 1)
      .map((field) => add(field, codes(field), state.axes[field], (code) => settle(field, code))),
    ...["seed", "status"].filter((field) => config[field]?.values.length > 1)
      .map((field) => add(field, codes(field), state[field], (code) => (state[field] = code))),
    add("rates from", ends, state.from, (rate) => setRates(rate, state.to)),
    add("rates to", ends, state.to, (rate) => setRates(state.from, rate)),
    element("label", { className: "flat" }, log, "log axis of losses and curves"));
}

/** Takes a range of rates, from the lower end to the higher. */
function setRates(from, to) {
  const turned = from !== null && to !== null && from > to;
  [state.from, state.to] = turned ? [to, from] : [from, to];
  for (const [name, rate] of [["rates from", state.from], ["rates to", state.to]]) byId("filters").elements[name].value = rate ?? "";
}

/** Takes the rates inside a range; all where it is none, or holds none. */
function brushRates(range) {
  const inside = range ? data.runs.config[RATE].values.filter((rate) => within(rate, range)) : [];
  setRates(inside[0] ?? null, inside.at(-1) ?? null);
}

/** Takes a value of an axis, and of each other axis one that some run has beside it. */
function settle(field, code) {
  state.axes[field] = code;
  const fits = (cell, fields) => fields.every((name) => [null, cell.codes[data.fields.indexOf(name)]].includes(state.axes[name]));
  const kept = [field];
  for (const other of data.fields.filter((name) => name !== field)) {
    const found = data.means.filter((cell) => fits(cell, kept));
    if (!found.some((cell) => fits(cell, [...kept, other]))) state.axes[other] = found.at(-1)?.codes[data.fields.indexOf(other)] ?? null;
    kept.push(other);
  }
  buildFilters();
  byId("filters").elements[field]?.focus();
}

/** The means that the axes leave, with what tells the lines of one init apart. */
function cellsShown() {
  const shown = data.means.filter(({ codes }) => data.fields.every((field, k) => [null, codes[k]].includes(state.axes[field])));
  const open = data.fields.filter((field) => field !== INIT && new Set(shown.map(({ value }) => value(field))).size > 1);
  const lines = new Map();
  for (const cell of shown) lines.set(cell.codes.join(), [...(lines.get(cell.codes.join()) ?? []), cell]);
  const many = new Set(shown.map(({ init }) => init)).size < lines.size;
  return [...lines.values()].flatMap((cells) => {
    const drawn = cells.filter(({ loss }) => (state.log ? loss > 0 : loss !== null));
    return cells.map(({ codes, lr, loss, low, high, seeds, init, value }) => ({
      lr, loss: state.log && !(loss > 0) ? null : loss, low, high, init, series: codes.join(),
      label: many && lr === drawn.at(-1)?.lr ? open.map((field) => typed(value(field))).join(", ") : "",
      tip: `${said(loss)}${low === null ? "" : ` [${said(low)}, ${said(high)}]`} at rate ${said(lr)}, ${counted(seeds, "seed")}`,
      of: [init, ...open.map((field) => `${field}=${typed(value(field))}`)].join(", "),
    }));
  });
}

/** The runs that the filters leave. */
function runsShown() {
  const codes = (field) => data.runs.config[field].codes;
  const wanted = [...Object.entries(state.axes), ["seed", state.seed], ["status", state.status]].filter(([, code]) => code !== null);
  const open = data.fields.filter((field) => field !== INIT && state.axes[field] === null);
  const told = (i) => open.map((field) => `${field}=${typed(setting(data, field, i))}`);
  return data.rows.filter(({ i }) => wanted.every(([field, code]) => codes(field)[i] === code)).map((row) => ({
    ...row, q: state.quantity ? compared(data, state.quantity, row.i) : null,
    of: [row.init, `seed=${setting(data, "seed", row.i)}`, ...told(row.i)].join(", "),
  }));
}

/** Whether a value lies between two, within rounding. */
function within(value, [from, to]) {
  return value !== null && (from === null || value >= from * (1 - 1e-9)) && (to === null || value <= to * (1 + 1e-9));
}

function ofRates(rows) {
  return state.from === null && state.to === null ? rows : rows.filter(({ lr }) => within(lr, [state.from, state.to]));
}

function rateRange() {
  const rates = data.runs.config[RATE].values;
  return state.from === null && state.to === null ? [] : [{ from: (state.from ?? rates[0]) / BESIDE, to: (state.to ?? rates.at(-1)) * BESIDE }];
}

/** All that the charts show, by data set. */
function datasets() {
  const rows = runsShown(), all = points(rows, state.log), some = points(ofRates(rows), state.log, "q");
  return {
    rates: { cells: cellsShown(), ...all, ...ringed(all, state.chosen), range: rateRange() },
    measure: { ...some, ...ringed(some, state.chosen), range: state.measure ? [{ from: state.measure[0], to: state.measure[1] }] : [] },
  };
}
