// The page's sections. Each has a `draw`, called again when the metric or the scale changes.

const slot = (name) => document.getElementById(`${name}-body`);
const power = () => state.power && !signed();
const redraws = [];
const drawAll = () => redraws.forEach((draw) => draw());
let goInside = () => {};

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
      byLayer.draw({ chart: "bars", sets: { cells: bars(lines, "layer", reading) }, titles: { ...titles, NAME: "layer" } });
      byModule.draw({
        chart: "bars",
        sets: { cells: bars(columns, "module", reading) },
        titles: { ...titles, NAME: "module" },
      });
    }
  }
  // Cells have fewer metrics than modules; a module that is only outside the layers is the same in both.
  const single = new Map(model.modules.filter((m) => !modules.has(m.module)).map((m) => [m.module, m]));
  const rest = model.cells.filter((c) => c.layer === "-").map((c) => single.get(c.module) ?? c);
  const total = { ...model.total, module: "everything" };
  const list = [total, ...rest].filter((row) => row[state.metric] !== undefined);
  outside.draw({ chart: "bars", sets: { cells: bars(list, "module", reading) }, titles: { ...titles, NAME: "tensors" } });
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
  const map = new Figure(host, { name: "Difference of the normalised scores", pick: (d) => goInside(chosen[1], d.layer, d.module) });
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

/** A layer or module and what is measured inside it: heads, groups of neurons, all figures of the cell. */
function insideLayer() {
  const host = slot("inside");
  if (!host) return;
  const cellsOf = (i) => inside(models[i].cells);
  // To begin with, a module that has something inside.
  const first = models[0].heads[0] ?? models[0].neurons[0] ?? inside(models.flatMap((m) => m.cells))[0];
  const at = { model: "0", layer: first.layer, module: first.module };
  const every = inside(models.flatMap((m) => m.cells));
  const set = (field) => (value) => {
    at[field] = value;
    draw();
  };
  const pickers = {
    model: select("Fine-tune", labels, at.model, set("model")),
    layer: select("Layer", distinct(every, "layer").map((l) => [l, l]), at.layer, set("layer")),
    module: select("Module", distinct(every, "module").map((m) => [m, m]), at.module, set("module")),
  };
  const bar = el("div", { className: "controls" }, ...Object.values(pickers).map((p) => p.node));
  bar.append(button("Show its tensors in the table below", () => showTensors(at)));
  const table = el("div");
  host.append(bar, table);
  const parts = [["heads", "head"], ["neurons", "group"]].filter(([kind]) => models.some((m) => m[kind].length));
  const shown = parts.map(([kind, field]) => slices(host, kind, field, at));
  const none = el("p", { className: "note", textContent: "Heads and groups of neurons were not measured (--heads, --neurons)." });
  if (!parts.length) host.append(none);
  const draw = () => {
    const found = cellsOf(at.model).filter((c) => c.layer === at.layer && c.module === at.module);
    const columns = [text("layer"), text("module"), metric("elements")];
    columns.push(...ALL.filter((m) => has(found, m)).map((m) => metric(m, summaries[m])));
    new DataTable(table, { name: "Figures of this layer and module", columns, rows: found });
    shown.forEach((slice) => slice());
  };
  redraws.push(draw);
  goInside = (model, layer, module) => {
    if (layer === "-" || (layer === undefined && module === undefined)) return;
    for (const [field, value] of Object.entries({ model: String(model), layer, module })) {
      if (value === undefined) continue;
      at[field] = value;
      pickers[field].menu.value = value;
    }
    draw();
    document.getElementById("inside-title").focus();
    document.getElementById("inside").scrollIntoView();
    announce(`Inside layer ${at.layer}, ${at.module}`);
  };
}

/** Two maps: one layer's modules, and one module's layers, by head or group. */
function slices(host, kind, field, at) {
  const words = field === "head" ? "head" : "group of neurons";
  const title3 = el("h3");
  const pair = el("div", { className: "row" });
  const note = el("p", { className: "note", hidden: true });
  host.append(title3, note, pair);
  const layer = new Figure(pair, { name: `One layer: modules by ${words}` });
  const module = new Figure(pair, { name: `One module: layers by ${words}` });
  return () => {
    const all = models[at.model][kind];
    const ofLayer = all.filter((r) => r.layer === at.layer);
    const ofModule = all.filter((r) => r.module === at.module);
    const measured = has(all);
    title3.textContent = field === "head" ? "Heads" : "Groups of neurons";
    const lacking = measured && !ofModule.length ? `${at.module} has no ${field === "head" ? "heads" : "groups of neurons"}.` : "";
    note.textContent = measured ? lacking : `${state.metric} is not measured for single ${kind}; choose another metric.`;
    note.hidden = !note.textContent;
    for (const [f, list, y, name] of [[layer, ofLayer, "module", `layer ${at.layer}`], [module, ofModule, "layer", at.module]]) {
      f.place.parentElement.hidden = !measured || !list.length;
      if (f.place.parentElement.hidden) continue;
      f.draw({
        chart: signed() ? "slices_signed" : "slices",
        sets: { cells: cells(list, reading, { x: field, y, power: power() }) },
        params: limits(list.map((r) => reading(r)), { both: signed(), power: power() }),
        titles: { VALUE: `${title()}, ${name}`, X: words, Y: y },
      });
    }
  };
}

/** How the changes of two fine-tunes go together. */
function pairs() {
  const host = slot("pairs");
  if (!host) return;
  const list = data.pairs.map((p) => ({ ...p, cells: inside(rows(p.cells)) }));
  const names = Object.keys(data.pairMetrics).filter((m) => list[0].total[m] !== undefined);
  const columns = [text("pair"), ...names.map((m) => metric(m, data.pairMetrics[m].summary))];
  const table = el("div");
  host.append(table);
  new DataTable(table, { name: "Pairs of fine-tunes", columns, rows: list.map((p) => ({ ...p.total, pair: `${p.a} and ${p.b}` })) });
  const means = el("dl");
  for (const m of names) means.append(el("dt", {}, el("code", { textContent: m })), el("dd", { textContent: data.pairMetrics[m].summary }));
  host.append(means);
  const usable = names.filter((m) => list.some((p) => has(p.cells, m)));
  if (!usable.length) return;
  const at = { pair: "0", measure: usable[0] };
  const set = (field) => (value) => {
    at[field] = value;
    draw();
  };
  const options = list.map((p, i) => [String(i), `${p.a} and ${p.b}`]);
  const bar = el("div", { className: "controls" }, select("Measure", usable.map((m) => [m, m]), at.measure, set("measure")).node);
  if (list.length > 1) bar.prepend(select("Pair", options, at.pair, set("pair")).node);
  host.append(bar);
  const map = new Figure(host, { name: "Two fine-tunes: layers by modules" });
  const draw = () => {
    const { low, mid, high } = data.pairMetrics[at.measure];
    const { a, b, cells: found } = list[at.pair];
    // Where no element changed in both there are no signs to agree.
    const value = (row) => (at.measure === "agree" && number(row.both) === 0 ? NaN : number(row[at.measure]));
    // Around a neutral value the colours reach as far as the figures do, so that weak agreement is seen too.
    const reach = Math.max(0, ...found.map((r) => Math.abs(value(r) - mid)).filter(Number.isFinite)) || 1;
    const params = mid === null ? limits(found.map(value)) : { low: Math.max(low, mid - reach), mid, high: Math.min(high, mid + reach) };
    map.draw({
      chart: mid === null ? "grid" : "grid_signed",
      sets: { cells: cells(found, value) },
      params,
      titles: { VALUE: `${at.measure}: ${a} and ${b}`, X: "module", Y: "layer" },
    });
  };
  draw();
}

/** The scores of the proposed swap. */
function proposal() {
  const host = slot("proposal");
  if (!host) return;
  const scores = rows(data.proposal.scores);
  const blocks = distinct(scores, "block");
  for (const block of blocks) {
    if (block !== null) heading(host, block);
    const list = scores.filter((s) => s.block === block);
    const found = list.map((s) => ({
      x: String(s.layer),
      y: String(s.layer),
      value: number(s.difference),
      letter: s.choice[0],
      above: data.proposal.tau,
      below: -data.proposal.tau,
      ...s,
      layer: String(s.layer),
      difference: figure(s.difference),
      margin: figure(s.margin),
    }));
    const name = `Proposed swap${block === null ? "" : `, ${block}`}: donor's score less the recipient's`;
    new Figure(host, { name, table: false }).draw({ chart: "choices", sets: { cells: found } });
  }
  const table = el("div");
  host.append(table);
  const kinds = [text("layer"), ...(blocks.some((b) => b !== null) ? [text("block")] : []), text("choice")];
  const columns = [...kinds, ...["into", "donor", "difference", "margin"].map((m) => metric(m))];
  new DataTable(table, { name: "Scores of the proposed swap", columns, rows: scores });
}

function tokens() {
  const host = slot("tokens");
  if (!host) return;
  const all = models.flatMap((m) => m.tokens.map((t) => ({ ...t, model: m.label, token: t.token === null ? null : `“${t.token}”` })));
  if (!all.length) return;
  const columns = [text("token"), metric("row"), ...(models.length > 1 ? [text("model", "fine-tune")] : []), text("tensor")];
  columns.push(...ALL.filter((m) => has(all, m)).map((m) => metric(m, summaries[m])));
  new DataTable(host, { name: "Tokens that changed most", columns, rows: all, filter: true });
}

let showTensors = () => {};

function tensors() {
  const host = slot("tensors");
  const all = models.flatMap((m) => m.tensors.map((t) => ({ ...t, model: m.label })));
  const columns = [text("name"), ...(models.length > 1 ? [text("model", "fine-tune")] : [])];
  columns.push(text("dtype"), text("shape"), ...(has(all, "layer") ? [text("layer")] : []), text("equal"), metric("elements"));
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
    select("Metric", ALL.map((m) => [m, m]), state.metric, change("metric", String)).node,
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
