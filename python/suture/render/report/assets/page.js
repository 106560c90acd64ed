// The page's sections. Each has a `draw`, called again when the metric or the scale changes.

const slot = (name) => document.getElementById(`${name}-body`);
const power = () => state.power && !signed();
const redraws = [];
const drawAll = () => redraws.forEach((draw) => draw());
let goInside = () => {};
let showTensors = () => {};
/** The column that says whose row it is. */
const whose = models.length > 1 ? [text("model", "fine-tune")] : [];

function heading(host, words) {
  host.append(el("h3", { textContent: words }));
}

/** A map with its margins for each fine-tune, and bars for what lies outside the layers. */
function maps() {
  const host = slot("maps");
  const columns = el("div", { className: "columns" });
  host.append(columns);
  for (const [i, model] of models.entries()) {
    const column = el("div", { className: "column" });
    columns.append(column);
    heading(column, model.label);
    const layered = inside(model.cells);
    const pair = el("div", { className: "row" });
    column.append(pair);
    const pick = (datum) => goInside(i, datum.layer, datum.module);
    const map = layered.length && new Figure(pair, { name: `${model.label}: layers by modules`, pick });
    const byLayer = layered.length && new Figure(pair, { name: `${model.label}: by layer` });
    const byModule = layered.length && new Figure(pair, { name: `${model.label}: by module` });
    const outside = new Figure(pair, { name: `${model.label}: outside the layers` });
    redraws.push(() => drawModel(model, layered, map, byLayer, byModule, outside));
  }
}

function drawModel(model, layered, map, byLayer, byModule, outside) {
  const modules = new Set(layered.map((c) => c.module));
  const titles = { VALUE: title(), X: "module", Y: "layer" };
  const lines = inside(model.layers);
  const columns = model.modules.filter((m) => modules.has(m.module));
  const cellular = has(layered);
  if (map) {
    for (const [f, shown] of [[map, cellular], [byLayer, !cellular], [byModule, !cellular]]) {
      f.place.parentElement.hidden = !shown;
    }
    if (cellular) {
      // One scale for all fine-tunes: the same colour is the same figure.
      const values = models.flatMap((m) => inside(m.cells).map((c) => reading(c)));
      map.draw({
        chart: signed() ? "margins_signed" : "margins",
        sets: {
          cells: cells(layered, reading, { power: power() }),
          rows: bars(lines, "layer", reading),
          columns: bars(columns, "module", reading),
        },
        params: limits(values, { both: signed(), power: power() }),
        titles,
      });
    } else {
      drawBars(byLayer, lines, "layer");
      drawBars(byModule, columns, "module");
    }
  }
  // Cells have fewer metrics than modules; a module that is only outside the layers is the same in both.
  const single = new Map(model.modules.filter((m) => !modules.has(m.module)).map((m) => [m.module, m]));
  const rest = model.cells.filter((c) => c.layer === "-").map((c) => single.get(c.module) ?? c);
  const total = { ...model.total, module: "everything" };
  const list = [total, ...rest].filter((row) => row[state.metric] !== undefined);
  drawBars(outside, list, "module", "tensors");
}

function drawBars(place, list, key, name = key) {
  place.draw({
    chart: "bars",
    sets: { cells: bars(list, key, reading) },
    titles: { VALUE: title(), NAME: name },
  });
}

/** The difference of two fine-tunes' shares. */
function difference() {
  const host = slot("difference");
  if (!host) return;
  const chosen = ["0", "1"];
  if (models.length > 2) {
    const bar = el("div", { className: "controls" });
    ["First fine-tune", "Second fine-tune"].forEach((label, i) => {
      const change = (value) => {
        chosen[i] = value;
        draw();
      };
      bar.append(select(label, labels, chosen[i], change).node);
    });
    host.append(bar);
  }
  const note = el("p", { className: "note", hidden: true });
  host.append(note);
  const pick = (datum) => goInside(chosen[1], datum.layer, datum.module);
  const map = new Figure(host, { name: "Difference of the normalised scores", pick });
  const draw = () => {
    const [first, second] = chosen.map((i) => models[i]);
    const [a, b] = [first, second].map((m) => shares(inside(m.cells)));
    const known = has(first.cells) && has(second.cells);
    note.hidden = known;
    note.textContent = `${state.metric} is not measured for single cells; choose another metric.`;
    map.place.parentElement.hidden = !known;
    if (!known) return;
    const key = (row) => `${row.layer}\n${row.module}`;
    const list = inside(first.cells).filter((row) => b.has(key(row)));
    const value = (row) => b.get(key(row)) - a.get(key(row));
    map.draw({
      chart: "grid_signed",
      sets: { cells: cells(list, value) },
      params: limits(list.map(value), { both: true }),
      titles: { VALUE: `share of ${title()}: ${second.label} - ${first.label}`, X: "module", Y: "layer" },
    });
  };
  redraws.push(draw);
}

function tokens() {
  const host = slot("tokens");
  if (!host) return;
  const quoted = (token) => (token === null ? null : `“${token}”`);
  const all = models.flatMap((m) => m.tokens.map((t) => ({ ...t, model: m.label, token: quoted(t.token) })));
  if (!all.length) return;
  const columns = [text("token"), metric("row"), ...whose, text("tensor")];
  columns.push(...ALL.filter((m) => has(all, m)).map((m) => metric(m, summaries[m])));
  new DataTable(host, { name: "Tokens that changed most", columns, rows: all, filter: true });
}


function tensors() {
  const host = slot("tensors");
  const all = models.flatMap((m) => m.tensors.map((t) => ({ ...t, model: m.label })));
  const columns = [text("name"), ...whose, text("dtype"), text("shape")];
  if (has(all, "layer")) columns.push(text("layer"));
  columns.push(text("equal"), metric("elements"));
  columns.push(...ALL.filter((m) => has(all, m)).map((m) => metric(m, summaries[m])));
  const counts = ["nonfinite_base", "nonfinite_tuned"].filter((m) => has(all, m) && !ALL.includes(m));
  columns.push(...counts.map((m) => metric(m)));
  const table = new DataTable(host, { name: "All tensors", columns, rows: all, filter: true });
  showTensors = ({ layer, module }) => {
    // A module's name has a `*` where its tensors have a number.
    table.input.value = [`.${layer}.`, ...module.split("*")].join(" ");
    table.filter();
    table.input.focus();
  };
}

function pageControls() {
  const bar = document.getElementById("page-controls");
  const change = (field, read) => (value) => {
    state[field] = read(value);
    drawAll();
  };
  const scales = [["linear", "linear"], ["log", "logarithmic"]];
  bar.append(
    select("Metric", ALL.map((m) => [m, called(m)]), state.metric, change("metric", String)).node,
    select("Colour scale", scales, "linear", change("power", (v) => v === "log")).node,
    themeControl(),
  );
}

pageControls();
maps();
difference();
insideLayer();
pairs();
proposal();
tokens();
tensors();
drawAll();
