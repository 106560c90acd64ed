// Draws the charts that Altair has described: fills in their data, parameters and titles.

const figures = [];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = "auto";
const theme = () => (chosenTheme === "auto" ? (dark.matches ? "dark" : "light") : chosenTheme);

/** A copy of a chart with its placeholders (VALUE, X, Y, NAME) replaced. */
function titled(node, titles) {
  if (typeof node === "string") return titles[node] ?? node;
  if (Array.isArray(node)) return node.map((n) => titled(n, titles));
  if (node === null || typeof node !== "object") return node;
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, titled(value, titles)]));
}

/** How wide a cell is, so that the chart fits its place where it can. */
function steps(host, columns, lines) {
  const free = (host.clientWidth || 360) - 165;
  const width = Math.max(18, Math.min(40, Math.floor(free / Math.max(columns, 1))));
  return { discreteWidth: { step: width }, discreteHeight: { step: lines > 40 ? 13 : 20 } };
}

function distinct(list, key) {
  return [...new Set(list.map((row) => row[key]))];
}

/** One chart, and under it the same figures as a table. */
class Figure {
  constructor(host, { name, pick, table = true }) {
    this.name = name;
    this.pick = pick;
    this.canvas = el("div", { className: "chart" });
    this.place = scroller(name, this.canvas);
    this.details = el("details", { className: "as-table" }, el("summary", { textContent: "Show as a table" }));
    this.figures = el("div");
    this.details.append(this.figures);
    this.details.addEventListener("toggle", () => this.tabulate());
    host.append(el("div", { className: "figure" }, this.place, ...(table ? [this.details] : [])));
    this.turn = 0;
    figures.push(this);
  }

  /** `chart`: its name; `sets`: its data; `params`: its parameters; `titles`: what its placeholders stand for. */
  draw({ chart, sets, params = {}, titles = {} }) {
    this.drawn = { chart, sets, params, titles };
    this.tabulate();
    return this.redraw();
  }

  async redraw() {
    if (!this.drawn) return;
    const { chart, sets, params, titles } = this.drawn;
    const spec = titled(drawing.charts[chart], titles);
    spec.description = this.name;
    spec.datasets = sets;
    spec.params = spec.params.map((p) => ({ ...p, value: params[p.name] ?? p.value }));
    const config = structuredClone(drawing.themes[theme()]);
    const cells = sets.cells ?? [];
    const size = steps(this.place, distinct(cells, "x").length, distinct(cells, "y").length);
    const narrow = this.place.clientWidth < 600;
    Object.assign(config.view, size, { continuousWidth: Math.max(120, Math.min(420, this.place.clientWidth - 240)) });
    if (narrow) config.axisY = { labelLimit: 130 };
    const turn = ++this.turn;
    const stage = el("div");
    const view = await vegaEmbed(stage, spec, {
      mode: "vega-lite",
      ast: true, // expressions are interpreted: the page's policy allows no `eval`
      config,
      renderer: "svg",
      tooltip: { theme: theme() },
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: this.name.replace(/\W+/g, "-"),
    });
    if (turn !== this.turn) return view.finalize();
    this.view?.finalize();
    this.view = view;
    this.canvas.replaceChildren(stage);
    view.view.addEventListener("click", (_, item) => item?.datum?.y !== undefined && this.pick?.(item.datum));
  }

  tabulate() {
    if (!this.details.open || !this.drawn) return;
    const { sets, titles } = this.drawn;
    const cells = sets.cells ?? [];
    const first = { key: "y", title: titles.Y ?? titles.NAME ?? "layer", text: true };
    if (this.drawn.chart === "bars") {
      const columns = [first, { key: "shown", title: titles.VALUE, text: true }];
      return new DataTable(this.figures, { name: this.name, columns, rows: cells });
    }
    const lines = new Map(distinct(cells, "y").map((y) => [y, { y }]));
    // Columns go by their number: a module may be called as a field of every object is.
    const names = distinct(cells, "x");
    for (const cell of cells) lines.get(cell.y)[`c${names.indexOf(cell.x)}`] = cell.raw;
    const columns = [first, ...names.map((title, i) => ({ key: `c${i}`, title }))];
    new DataTable(this.figures, { name: this.name, columns, rows: [...lines.values()] });
  }
}

function redrawAll() {
  return Promise.all(figures.map((f) => f.redraw()));
}

/** Light, dark, or what the system says. */
function themeControl() {
  const options = [["auto", "as the system"], ["light", "light"], ["dark", "dark"]];
  return select("Theme", options, chosenTheme, (value) => {
    chosenTheme = value;
    if (value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
    redrawAll();
  }).node;
}

dark.addEventListener("change", redrawAll);
let width = window.innerWidth;
let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (window.innerWidth !== width) redrawAll();
    width = window.innerWidth;
  }, 200);
});
