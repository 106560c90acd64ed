// Tables that sort by the buttons in their heads and, when long, can be filtered and show a part at a time.

const PAGE = 50;

/** A column: its key in the rows, its title, and whether it holds text. */
const text = (key, title = key) => ({ key, title, text: true });
/** There are two cosines: the labels tell them apart. */
const called = (key, labels = data.labels) => labels[key] ?? key;
const metric = (key, summary = "", labels = data.labels) => ({ key, title: called(key, labels), summary });

function show(column, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return column.text ? String(value) : said(column.key, number(value));
}

/** Unknown values come last, in either direction. */
function order(column, down) {
  const sign = down ? -1 : 1;
  const rank = column.text ? (v) => v : number;
  const unknown = (v) => v === null || v === undefined || Number.isNaN(v);
  return (a, b) => {
    const [x, y] = [rank(a[column.key]), rank(b[column.key])];
    if (unknown(x) || unknown(y)) return unknown(x) - unknown(y);
    const less = column.text ? String(x).localeCompare(String(y), "en", { numeric: true }) : x < y ? -1 : +(x > y);
    return sign * less;
  };
}

class DataTable {
  constructor(host, { name, columns, rows: all, filter = false }) {
    Object.assign(this, { name, columns, all, found: all, limit: PAGE, sorted: null });
    this.body = el("tbody");
    this.heads = columns.map((column) => this.head(column));
    const head = el("thead", {}, el("tr", {}, ...this.heads));
    this.state = el("p", { className: "state", attributes: { role: "status" } });
    this.more = el("div", { className: "more" });
    this.more.append(
      button(`Show ${PAGE} more`, () => this.grow(PAGE)),
      button("Show all", () => this.grow(Infinity)),
    );
    host.replaceChildren();
    if (filter) host.append(this.search());
    host.append(this.state, scroller(name, el("table", {}, head, this.body)), this.more);
    this.draw();
  }

  head(column) {
    const sort = button(column.title, () => this.sort(column), { title: column.summary ?? "" });
    return el("th", { scope: "col", className: column.text ? "" : "n", attributes: { "aria-sort": "none" } }, sort);
  }

  search() {
    const id = `control-${++ids}`;
    this.input = el("input", { id, type: "search", autocomplete: "off", spellcheck: false });
    this.input.addEventListener("input", () => this.filter());
    const label = el("label", { htmlFor: id, textContent: "Rows that hold all of these words" });
    return el("div", { className: "control wide" }, label, this.input);
  }

  filter() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = this.columns.filter((c) => c.text);
    const holds = (row, word) => texts.some((c) => show(c, row[c.key]).toLowerCase().includes(word));
    this.found = this.all.filter((row) => words.every((word) => holds(row, word)));
    this.limit = PAGE;
    this.draw();
  }

  sort(column) {
    const same = this.sorted?.column === column;
    this.sorted = { column, down: same ? !this.sorted.down : !column.text };
    this.columns.forEach((c, i) => {
      const state = c === column ? (this.sorted.down ? "descending" : "ascending") : "none";
      this.heads[i].setAttribute("aria-sort", state);
    });
    this.draw();
  }

  grow(by) {
    this.limit += by;
    this.draw();
  }

  draw() {
    const shown = this.sorted ? this.found.slice().sort(order(this.sorted.column, this.sorted.down)) : this.found;
    const part = shown.slice(0, this.limit);
    this.body.replaceChildren(...part.map((row) => this.row(row)));
    this.state.textContent = `${part.length.toLocaleString("en")} of ${this.all.length.toLocaleString("en")} rows`;
    this.state.hidden = !this.input && this.all.length <= PAGE;
    this.more.hidden = part.length === shown.length;
  }

  row(row) {
    const cells = this.columns.map((column, i) => {
      const shown = show(column, row[column.key]);
      if (i) return el("td", { textContent: shown, className: column.text ? "" : "n" });
      return el("th", { scope: "row" }, el("div", { className: "first", textContent: shown }));
    });
    return el("tr", {}, ...cells);
  }
}
