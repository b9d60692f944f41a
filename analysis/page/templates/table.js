// The table of runs: sorted by its headings, some rows at a time.

const PAGE = 25;

/** Its columns: a heading, a run's value, whether it is a number, and whether it is one too many for paper. */
function columns(data) {
  const configured = [...new Set([INIT, RATE, "seed", ...data.fields])];
  const numbers = Object.entries(data.runs.numbers).filter(([name]) => name !== LOSS);
  const numeric = (values) => values.every((value) => value === null || typeof value === "number");
  return [
    { name: "run", get: (row) => row.id },
    { name: "status", get: (row) => setting(data, "status", row.i) },
    ...configured.map((name) => ({ name, get: (row) => setting(data, name, row.i),
      number: numeric(data.runs.config[name].values) })),
    { name: data.loss.split(";")[0], get: (row) => row.loss, number: true, ofLoss: true },
    ...numbers.map(([name, values]) => ({ name: name.replace("summary.", "").replaceAll("_", " "),
      get: (row) => values[row.i], number: true, more: true })),
    ...measured(data).filter(({ ofLoss }) => !ofLoss).map(({ column, name }) => ({ name,
      get: (row) => compared(data, column, row.i), number: true, more: true })),
  ];
}

/** The rows in the order of a column; those without a value come last either way. */
function sorted(rows, { get }, down) {
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const [there, lacking] = [rows.filter((row) => get(row) !== null), rows.filter((row) => get(row) === null)];
  return [...there.sort((a, b) => (down ? -1 : 1) * compare(get(a), get(b))), ...lacking];
}

function matches(row, shown, text) {
  return !text || shown.map(({ get }) => said(get(row))).join(" ").toLowerCase().includes(text.toLowerCase());
}

/** Its heading, of buttons that sort. */
function heading(shown, sort, change) {
  const cells = shown.map(({ name, more }, k) => {
    const cell = element("th", { scope: "col", className: more ? "more" : "" });
    cell.ariaSort = sort.k === k ? (sort.down ? "descending" : "ascending") : "none";
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => change({ k, down: sort.k === k && !sort.down }));
    cell.append(button);
    return cell;
  });
  byId("table").tHead.replaceChildren(element("tr", {}, ...cells));
}

function body(shown, rows, chosen, choose) {
  const lines = rows.map((row) => {
    const button = element("button", { type: "button", textContent: row.id });
    button.setAttribute("aria-label", `Show run ${row.id}`);
    button.addEventListener("click", () => choose(row.i, "focus"));
    const cells = shown.slice(1).map(({ get, number, more }) =>
      element("td", { textContent: said(get(row)), className: `${number ? "number" : ""} ${more ? "more" : ""}` }));
    return element("tr", { className: row.i === chosen ? "chosen" : "" }, element("th", { scope: "row" }, button), ...cells);
  });
  byId("table").tBodies[0].replaceChildren(...lines);
}

/** Terms and their descriptions. */
function listTerms(place, pairs) {
  place.replaceChildren(...pairs.flatMap(([term, text]) =>
    [element("dt", { textContent: term }), element("dd", { textContent: said(text) })]));
}

/** Shows more rows, and takes the keyboard to the first of them where the button goes away. */
function showMore() {
  const before = byId("table").tBodies[0].rows.length;
  state.shown *= 4;
  tell();
  if (byId("more").hidden) byId("table").tBodies[0].rows[before].querySelector("button").focus();
}
