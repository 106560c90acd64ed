// What is measured inside a layer or a module.

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
  const none = "Heads and groups of neurons were not measured (--heads, --neurons).";
  if (!parts.length) host.append(el("p", { className: "note", textContent: none }));
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
  const head = el("h3");
  const pair = el("div", { className: "row" });
  const note = el("p", { className: "note", hidden: true });
  host.append(head, note, pair);
  const layer = new Figure(pair, { name: `One layer: modules by ${words}` });
  const module = new Figure(pair, { name: `One module: layers by ${words}` });
  return () => {
    const all = models[at.model][kind];
    const ofLayer = all.filter((r) => r.layer === at.layer);
    const ofModule = all.filter((r) => r.module === at.module);
    const measured = has(all);
    const many = field === "head" ? "heads" : "groups of neurons";
    head.textContent = many[0].toUpperCase() + many.slice(1);
    const lacking = measured && !ofModule.length ? `${at.module} has no ${many}.` : "";
    const unknown = `${state.metric} is not measured for single ${kind}; choose another metric.`;
    note.textContent = measured ? lacking : unknown;
    note.hidden = !note.textContent;
    const maps = [[layer, ofLayer, "module", `layer ${at.layer}`], [module, ofModule, "layer", at.module]];
    for (const [f, list, y, name] of maps) {
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
