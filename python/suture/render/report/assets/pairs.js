// Fine-tunes beside each other: how their changes go together, and the swap that is proposed.

/** How the changes of two fine-tunes go together. */
function pairs() {
  const host = slot("pairs");
  if (!host) return;
  const list = data.pairs.map((p) => ({ ...p, cells: inside(rows(p.cells)) }));
  const names = Object.keys(data.pairMetrics).filter((m) => list[0].total[m] !== undefined);
  const columns = [text("pair"), ...names.map((m) => metric(m, data.pairMetrics[m].summary, data.pairLabels))];
  const table = el("div");
  host.append(table);
  const totals = list.map((p) => ({ ...p.total, pair: `${p.a} and ${p.b}` }));
  new DataTable(table, { name: "Pairs of fine-tunes", columns, rows: totals });
  const means = el("dl");
  for (const m of names) {
    const name = el("code", { textContent: called(m, data.pairLabels) });
    means.append(el("dt", {}, name), el("dd", { textContent: data.pairMetrics[m].summary }));
  }
  host.append(means);
  const usable = names.filter((m) => list.some((p) => has(p.cells, m)));
  if (!usable.length) return;
  const at = { pair: "0", measure: usable[0] };
  const set = (field) => (value) => {
    at[field] = value;
    draw();
  };
  const options = list.map((p, i) => [String(i), `${p.a} and ${p.b}`]);
  const measures = usable.map((m) => [m, called(m, data.pairLabels)]);
  const bar = el("div", { className: "controls" }, select("Measure", measures, at.measure, set("measure")).node);
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
    const around = { low: Math.max(low, mid - reach), mid, high: Math.min(high, mid + reach) };
    map.draw({
      chart: mid === null ? "grid" : "grid_signed",
      sets: { cells: cells(found, value) },
      params: mid === null ? limits(found.map(value)) : around,
      titles: { VALUE: `${called(at.measure, data.pairLabels)}: ${a} and ${b}`, X: "module", Y: "layer" },
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
