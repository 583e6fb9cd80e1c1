// The table of runs: made from columns of data, a page of rows at a time; a click opens a panel.
const STEP = 100; // rows that are shown at once
const RUNS = data.runs;
const textOf = ([values, places], row) => values[places.length ? places[row] : 0];
const fixedTo = (digits) => (value) => (value === null ? NONE : value.toFixed(digits).replace("-", "\u2212"));
const duration = (s) => (s < 60 ? `${s.toFixed(1)} s` : s < 3600 ? `${(s / 60).toFixed(1)} min` : `${(s / 3600).toFixed(1)} h`);
const range = (row) => (RUNS.low[row] === null || RUNS.low[row] === RUNS.high[row] ? NONE : `${fixedTo(1)(RUNS.low[row])} to ${fixedTo(1)(RUNS.high[row])}`);

// Title, key (by which it is sorted and saved), text, and how it looks.
const COLUMNS = [
  ...["task", "model", "protocol", "method", "stage", "status", "metric"].map((title) => [title, RUNS.texts[title]]).map(([title, column]) => ({
    title, key: (row) => textOf(column, row) ?? "", text: (row) => textOf(column, row) ?? NONE,
    shared: ["task", "model", "protocol", "metric"].includes(title) && column[0].length < 2,
    picks: title === "metric" || column[0].length < 2 ? [] : column[0], looks: title === "method" ? "strong fixed" : "",
  })),
  ...[
    ["seed", "seed", String], ["score", "score", fixedTo(1)], ["baseline", "baseline", fixedTo(1)],
    ["95 % interval", "low", null], ["effective rate", "rate", (v) => (v === null ? NONE : short(v))], ["training", "seconds", duration],
  ].map(([title, name, show]) => ({
    title, key: (row) => RUNS[name][row] ?? "", text: show ? (row) => show(RUNS[name][row]) : range, picks: [], looks: "number",
    shared: name === "baseline" && RUNS.baseline.every((value) => value === null),
  })),
  { title: "folder", key: (row) => RUNS.folder[row], text: (row) => RUNS.folder[row], picks: [], looks: "code" },
];

function runsTable(box) {
  const shown = COLUMNS.filter((column) => !column.shared);
  const every = RUNS.seed.map((_, row) => row);
  const words = every.map((row) => shown.map((column) => column.text(row)).join("\n").toLowerCase());
  let order = [...every], most = STEP;
  const search = element("input", { type: "search", placeholder: "Filter", "aria-label": "Filter runs" });
  const pickers = shown.filter((column) => column.picks.length > 1).map((column) => {
    const select = element("select", {}, element("option", { value: "" }, "all"), ...[...column.picks].sort().map((value) => element("option", {}, value ?? NONE)));
    return { column, select, label: element("label", {}, `${column.title} `, select) };
  });
  const count = element("output", { class: "count" });
  const fits = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return order.filter((row) => wanted.every((word) => words[row].includes(word)) &&
      pickers.every(({ column, select }) => !select.value || column.text(row) === select.value));
  };
  const save = button("CSV", { class: "save" }, () =>
    saveCsv("runs", [COLUMNS.map((c) => c.title), ...fits().map((row) => COLUMNS.map((c) => c.key(row)))]));
  const body = element("tbody");
  const more = button("", { class: "more" }, () => { most += 5 * STEP; fill(); });
  const heads = shown.map((column) => element("th", { scope: "col", "aria-sort": "none", class: column.looks },
    button(column.title, {}, (event) => {
      const up = turn(event.target.closest("th"));
      order = ordered([...every], (row) => String(column.key(row)), up);
      fill();
    })));

  function fill() {
    const rows = fits();
    body.replaceChildren(...rows.slice(0, most).map(line));
    count.textContent = countText(rows.length, every.length);
    more.hidden = rows.length <= most;
    more.textContent = `Show more of ${rows.length.toLocaleString("en")} rows`;
  }

  function line(row) {
    const node = element("tr", { class: "run", tabindex: 0, "aria-expanded": "false" },
      ...shown.map((column) => element("td", { class: column.looks }, ...(column.title === "method" ? [swatch(textOf(RUNS.texts.base, row))] : []), column.text(row))));
    const toggle = () => {
      const open = node.nextElementSibling?.classList.contains("panel");
      node.setAttribute("aria-expanded", String(!open));
      if (open) return node.nextElementSibling.remove();
      const cell = element("td", { colspan: shown.length });
      node.after(element("tr", { class: "panel" }, cell));
      runPanel(cell, row);
    };
    node.addEventListener("click", toggle);
    node.addEventListener("keydown", (event) => event.target === node && event.key === "Enter" && toggle());
    return node;
  }

  const told = COLUMNS.filter((column) => column.shared && column.title !== "baseline").map((column) => `${column.title} ${column.text(0)}`);
  if (told.length) box.append(element("p", { class: "ground" }, `All rows: ${told.join(", ")}.`));
  box.append(
    element("div", { class: "controls" }, search, ...pickers.map((one) => one.label), element("span", { class: "end" }, count, " ", save)),
    element("div", { class: `scroll${every.length > 25 ? " tall" : ""}`, tabindex: 0, role: "region", "aria-label": "Table runs" },
      element("table", { id: "table-runs" }, element("thead", {}, element("tr", {}, ...heads)), body)),
    more,
  );
  for (const node of [search, ...pickers.map((one) => one.select)]) node.addEventListener("input", () => { most = STEP; fill(); });
  fill();
}

function runPanel(cell, row) {
  const method = textOf(RUNS.texts.base, row);
  const box = element("div", { class: "run-panel" });
  cell.append(box);
  const settings = RUNS.settings[1][row].map((place) => RUNS.settings[0][place]);
  const own = settings.filter(([name]) => RUNS.telling.includes(name));
  const others = [...settings.filter(([name]) => !RUNS.telling.includes(name)), ...RUNS.common].sort(([a], [b]) => (a < b ? -1 : 1));
  const facts = [
    ["score", known([RUNS.score[row]]).length ? [fixedTo(1)(RUNS.score[row]), ...(range(row) === NONE ? [] : [`(${range(row)})`])].join(" ") : textOf(RUNS.texts.status, row)],
    ["majority baseline", fixedTo(1)(RUNS.baseline[row])],
    ["effective learning rate", RUNS.rate[row] === null ? NONE : short(RUNS.rate[row])],
    ["trained parameters", (textOf(RUNS.trained, row) ?? NONE).toLocaleString("en")],
    ["training", duration(RUNS.seconds[row])],
  ];
  const list = (pairs) => element("dl", { class: "settings" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  const left = element("div", {}, list(facts), element("h4", {}, "Settings that differ between runs"), own.length ? list(own) : element("p", {}, "None."),
    element("details", {}, element("summary", {}, `All ${others.length} other settings`), list(others)));
  const right = element("div");
  box.append(left, right);
  if (RUNS.failures[row]) right.append(element("p", { class: "warn" }, RUNS.failures[row]));
  const curve = RUNS.curves[1][row];
  if (curve) lossChart(right, method, RUNS.curves[0][curve[0]], curve[1]);
  const command = ["python run.py", ...RUNS.commands[1][row].map((place) => quoted(RUNS.commands[0][place]))].join(" ");
  if (RUNS.commands[1][row].length)
    right.append(element("h4", {}, "Command"), element("pre", { class: "code" }, command), button("Copy", { class: "save" }, () => navigator.clipboard?.writeText(command)));
  const files = textOf(RUNS.files, row);
  right.append(element("h4", {}, "Files"), element("p", { class: "code" }, RUNS.folder[row]), element("p", {}, ...files.flatMap((name) => [fileLink(row, name), " "])));
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

function fileLink(row, name) {
  if (!data.folder) return element("span", {}, name);
  const way = [data.folder, ...RUNS.folder[row].split("/"), name].map((part, i) => (i ? encodeURIComponent(part) : part)).join("/");
  return element("a", { href: way }, name);
}

function lossChart(box, method, steps, losses) {
  const { svg, x, y } = frame(box, "Training loss", "", steps, losses, false, "step", "loss", 200);
  const path = steps.map((step, i) => `${i ? "L" : "M"}${x.place(step)} ${y.place(losses[i])}`).join("");
  svg.append(trace(method, draw("path", { class: "line", d: path })));
}

for (const box of document.querySelectorAll(".data[data-runs]")) {
  box.dataset.table = "runs";
  runsTable(box);
}
