"use strict";
// An experiment's data as they are in the page, and as rows.

const PANELS = JSON.parse(byId("panels").textContent);
const RATE = "optimizer.lr", INIT = "init.name", LOSS = "loss";

function byId(id) {
  return document.getElementById(id);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** The experiment of this name, with `rows`: an object a run. */
async function unpacked(name) {
  const packed = [...document.querySelectorAll("script.data")].find((script) => script.dataset.name === name);
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(stream).json();
  data.fields = data.axes.map((axis) => axis.field);
  const inits = data.runs.config[INIT].values;
  data.rows = data.runs.id.map((id, i) => ({
    i, id, lr: setting(data, RATE, i), init: setting(data, INIT, i), loss: data.runs.numbers[LOSS][i],
    gone: setting(data, "status", i) === "diverged", lane: inits.indexOf(setting(data, INIT, i)),
  }));
  return data;
}

/** A field of a run's configuration, of those that vary or are the same in all runs. */
function setting(data, field, i) {
  const column = data.runs.config[field];
  return column ? column.values[column.codes[i]] : data.shared[field];
}

/** `1 seed`, `6 seeds`. */
function counted(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

/** A setting as one types it. */
function typed(value) {
  return value === null ? "null" : said(value);
}

/** A value as one reads it. */
function said(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const rounded = Number(value.toPrecision(6));
  return value !== 0 && Math.abs(value) < 1e-4 ? rounded.toExponential() : String(rounded);
}

/** The curve of a run as [step, value] pairs. */
function curve(data, column, i) {
  const { at, y } = data.curves.columns[column];
  return at[i] === null ? [] : data.curves.steps[at[i]].map((step, k) => [step, y[i][k]]);
}

/** What is compared of a curve: its value at the step that all runs share, or at the run's last; null where there is none. */
function compared(data, column, i) {
  const { at, y, step } = data.curves.columns[column];
  const k = at[i] === null ? -1 : data.curves.steps[at[i]].lastIndexOf(step ?? data.curves.last[i]);
  return k < 0 ? null : y[i][k];
}

function moment({ step }) {
  return step === null ? "at the end" : `at step ${step}`;
}

/** Measured columns that some run has, with their names and when. */
function measured(data) {
  return Object.entries(PANELS).flatMap(([panel, names]) => Object.entries(names)
    .filter(([column]) => column in data.curves.columns)
    .map(([column, name]) => ({ column, name: panel === "loss" ? `${name} loss` : `${panel}: ${name}`, ofLoss: panel === "loss" }))
    .map((each) => ({ ...each, name: `${each.name}, ${moment(data.curves.columns[each.column])}` })));
}

/** The means over seeds as objects: the axes' codes, and numbers. */
function means(data) {
  return data.cells.map((cell) => {
    const codes = cell.slice(0, data.fields.length);
    const [lr, loss, low, high, seeds, gone] = cell.slice(data.fields.length);
    const value = (field) => data.runs.config[field].values[codes[data.fields.indexOf(field)]];
    return { codes, lr, loss, low, high, seeds, gone, init: value(INIT), value };
  });
}
