// Small things that the other scripts share. Text is only ever set as text, never as markup.

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const data = parsed("data");
const drawing = parsed("drawing");

function el(tag, fields = {}, ...children) {
  const { attributes = {}, ...own } = fields;
  const node = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Rows of a table of columns as objects. */
function rows(table) {
  if (!table) return [];
  return table.rows.map((row) => Object.fromEntries(table.columns.map((c, i) => [c, row[i]])));
}

/** A figure of the data as a number; JSON has none for infinity. */
function number(value) {
  if (typeof value === "number") return value;
  return { inf: Infinity, "-inf": -Infinity, null: NaN }[String(value)] ?? NaN;
}

function figure(value, digits = 3) {
  const n = number(value);
  if (Number.isNaN(n)) return "?";
  if (!Number.isFinite(n)) return n > 0 ? "∞" : "-∞";
  if (n === 0) return "0";
  if (Number.isInteger(n) && Math.abs(n) < 1e15) return n.toLocaleString("en");
  const size = Math.abs(n);
  if (size < 1e-4 || size >= 1e6) return n.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return String(Number(n.toPrecision(digits)));
}

/** A cosine near one is told from one by its later digits. */
const said = (metric, value) => (metric === "cosine" && Number.isFinite(value) ? value.toFixed(6) : figure(value));

let ids = 0;

/** A native select under a label; `options` are [value, text]. */
function select(label, options, chosen, change) {
  const id = `control-${++ids}`;
  const menu = el("select", { id }, ...options.map(([value, text]) => el("option", { value, textContent: text })));
  menu.value = chosen;
  menu.addEventListener("change", () => change(menu.value));
  return { menu, node: el("div", { className: "control" }, el("label", { htmlFor: id, textContent: label }), menu) };
}

function button(text, click, fields = {}) {
  const node = el("button", { type: "button", textContent: text, ...fields });
  node.addEventListener("click", click);
  return node;
}

/** A part of the page that scrolls sideways by itself: reachable by keyboard, and named. */
function scroller(name, ...children) {
  const attributes = { role: "region", tabindex: "0", "aria-label": name };
  return el("div", { className: "scroll", attributes }, ...children);
}

function announce(text) {
  document.getElementById("announce").textContent = text;
}
