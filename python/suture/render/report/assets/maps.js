// From rows of the comparison to what the charts draw; the same rules as in values.py.

const ALL = data.metrics.map((m) => m.name);
const summaries = Object.fromEntries(data.metrics.map((m) => [m.name, m.summary]));
const state = { metric: ALL.includes("relative_l2") ? "relative_l2" : ALL[0], power: false };
const title = () => data.readings[state.metric] ?? state.metric;
const signed = () => data.signed.includes(state.metric);

/** The metric as it is drawn: of a cosine near one, the distance from one. */
function reading(row, name = state.metric) {
  const value = number(row[name]);
  return name === "cosine" ? Math.max(1 - value, 0) : value;
}

/** A value to draw; `power`: the colour goes by its logarithm. */
function drawn(value, power = false) {
  const finite = Number.isFinite(value);
  const low = power && value === 0;
  const mark = low ? "0" : finite ? "" : Number.isNaN(value) ? "?" : "∞";
  return { value: !finite || low ? null : power ? Math.log10(value) : value, raw: value, shown: figure(value), mark };
}

/** Vega's look-ups trip over names that every object has a field of. */
const plain = (name) => (name in Object.prototype ? `${name} ` : name);
const short = (module) => data.short[module] ?? module;

/** Cells of a map; `x` and `y` say which fields of a row they are. */
function cells(list, value, { x = "module", y = "layer", power = false } = {}) {
  return list.map((row) => ({
    y: plain(String(row[y])),
    x: x === "module" ? short(row[x]) : String(row[x]),
    xname: x === "group" ? `${row.group} (${row.first} to ${row.last})` : String(row[x]),
    layer: row.layer,
    module: row.module,
    ...drawn(value(row), power),
  }));
}

/** Bars; what is no number has a bar of no length, and its name in words. */
function bars(list, key, value) {
  return list.map((row) => {
    const found = drawn(value(row));
    const name = String(row[key]);
    const place = { y: plain(name), x: short(name), xname: name, layer: row.layer, module: row.module };
    return { ...place, ...found, value: found.value ?? 0 };
  });
}

/** The ends of the colour scale: from zero up, or as far down as up. */
function limits(values, { both = false, power = false } = {}) {
  const finite = values.filter(Number.isFinite).map(Math.abs);
  const top = Math.max(0, ...finite) || 1;
  const positive = finite.filter((v) => v > 0);
  if (power) return { low: Math.log10(Math.min(top, ...positive)), high: Math.log10(top), power: true };
  return { low: both ? -top : 0, mid: 0, high: top };
}

const inside = (list) => list.filter((row) => row.layer !== "-");
const has = (list, name = state.metric) => list.length > 0 && list[0][name] !== undefined;

/** Each cell's size over the sum of all: fine-tunes of different strength can then be compared. */
function shares(list) {
  const sizes = list.map((row) => Math.abs(reading(row)));
  const total = sizes.filter(Number.isFinite).reduce((a, b) => a + b, 0);
  return new Map(list.map((row, i) => [`${row.layer}\n${row.module}`, total ? sizes[i] / total : NaN]));
}

/** Rows of a fine-tune, unpacked once. */
const models = data.models.map((model) => ({
  ...model,
  cells: rows(model.cells),
  layers: rows(model.layers),
  modules: rows(model.modules),
  heads: rows(model.heads),
  neurons: rows(model.neurons),
  tokens: rows(model.tokens),
  tensors: rows(model.tensors),
}));
const labels = models.map((m, i) => [String(i), m.label]);
