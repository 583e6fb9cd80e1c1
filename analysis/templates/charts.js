// Charts: quality against cost, learning curves, curves of tuning, profiles.
const tip = document.getElementById("tip");
const LEFT = 44, TOP = 16, BOTTOM = 44, HEIGHT = 260;

function scale(values, from, to, log) {
  const by = log ? Math.log10 : (x) => x;
  const back = log ? (x) => 10 ** x : (x) => x;
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, by(value)); high = Math.max(high, by(value)); }
  const margin = (high - low) * 0.08 || (log ? 0.5 : Math.abs(high) * 0.05 || 1);
  [low, high] = [low - margin, high + margin];
  const place = (x) => +(from + ((by(x) - low) / (high - low)) * (to - from)).toFixed(2);
  return { place, ticks: log ? logTicks(back(low), back(high)) : ticks(low, high) };
}

function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const steps = decades > 2.5 ? [1] : decades > 1 ? [1, 3] : [1, 2, 5];
  const found = [];
  for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p++)
    for (const n of steps) if (n * 10 ** p >= low && n * 10 ** p <= high) found.push(+(n * 10 ** p).toPrecision(3));
  return found.length > 1 ? found : ticks(low, high);
}

// On a logarithmic axis `zero` is the number in whose place 0 stands, a decade left of the others.
function frame(box, title, note, xs, ys, log, xTitle, yTitle, height = HEIGHT, zero = null) {
  const under = [yTitle, note].filter(Boolean).join(", ");
  const figure = element("figure", { class: "chart" });
  box.append(figure);
  const width = Math.max(figure.clientWidth - 32, 200);
  const x = scale(xs, LEFT, width - 8, log);
  const y = scale(ys, height - BOTTOM, TOP, false);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  for (const tick of y.ticks) {
    const at = y.place(tick);
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - 8, y1: at, y2: at }));
    svg.append(draw("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, short(tick)));
  }
  const shown = zero === null ? x.ticks : [...x.ticks.filter((tick) => tick > 4 * zero), zero];
  for (const tick of shown)
    svg.append(draw("text", { x: x.place(tick), y: height - BOTTOM + 18, "text-anchor": "middle" }, tick === zero ? "0" : short(tick)));
  svg.append(draw("text", { x: (LEFT + width) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
  const saves = saveButtons(title, () => {
    const copy = styled(svg);
    for (const [name, value] of Object.entries({ width, height })) copy.setAttribute(name, value);
    return finished(copy, title, under, width, height, [...new Set([...svg.querySelectorAll("[data-method]")].map((node) => node.dataset.method))].sort());
  });
  figure.append(element("figcaption", {}, element("span", {}, title, element("small", {}, under)), saves), svg);
  return { svg, x, y, width };
}

function mark(method, x, y, text) {
  const { colour, shape } = look(method);
  const node = draw("g", { class: `mark ${colour}`, tabindex: 0, role: "img", "aria-label": text });
  node.dataset.method = method;
  node.append(draw("circle", { class: "hit", cx: x, cy: y, r: 14 }));
  node.append(draw("path", { class: "dot", d: shape, transform: `translate(${x} ${y})` }));
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => show(node, text));
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, () => (tip.hidden = true));
  return node;
}

function show(node, text) {
  tip.textContent = text;
  tip.hidden = false;
  const at = node.querySelector(".dot").getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.x + at.width / 2 - size.width / 2), document.documentElement.clientWidth - size.width - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${at.y - size.height - 8 < 0 ? at.bottom + 8 : at.y - size.height - 8}px`;
}
addEventListener("scroll", () => (tip.hidden = true), { passive: true });

const between = (low, high) => (low === null || high === null ? "" : ` (${short(low)} to ${short(high)})`);
const several = new Set(data.pareto.map((chart) => chart.stack).filter(Boolean)).size > 1;

function paretoChart(box, chart, axis) {
  const points = chart.points.filter((p) => p.costs[axis] !== null);
  const { title, log } = data.axes[axis];
  if (points.length < 1) return;
  const costs = known(points.flatMap((p) => [p.costs[axis], ...p.ends[axis]]));
  const positive = costs.filter((v) => v > 0);
  const ys = known(points.flatMap((p) => p.score));
  const wide = log && Math.max(...positive) / Math.min(...positive) > 5;
  const zero = wide && points.some((p) => p.costs[axis] === 0) ? Math.min(...positive) / 10 : null;
  const at = (v) => (zero !== null && v === 0 ? zero : v);
  const xs = wide ? [...positive, ...(zero === null ? [] : [zero])] : costs;
  // A floor that is far away would leave no room for what differs.
  const low = Math.min(...ys), near = chart.floor > low - (Math.max(...ys) - low);
  const note = [several ? chart.stack : "", `baseline ${short(chart.floor)}`].filter(Boolean).join(", ");
  const { svg, x, y, width } = frame(box, chart.title, note, xs, near ? [...ys, chart.floor] : ys, wide, title, chart.metric, HEIGHT, zero);
  if (near) svg.append(draw("line", { class: "floor", x1: LEFT, x2: width - 8, y1: y.place(chart.floor), y2: y.place(chart.floor) }));
  const best = points.filter((p) => p.front.includes(axis)).sort((a, b) => a.costs[axis] - b.costs[axis]);
  const path = best.map((p, i) => {
    const [px, py] = [x.place(at(p.costs[axis])), y.place(p.score[0])];
    return i ? `H${px}V${py}` : `M${px} ${py}`;
  });
  svg.append(draw("path", { class: "front", d: path.join("") }));
  for (const p of points) {
    const [px, py] = [x.place(at(p.costs[axis])), y.place(p.score[0])];
    const [from, to] = p.ends[axis];
    const text = `${p.method}\n${chart.metric} ${short(p.score[0])}${between(p.score[1], p.score[2])}\n${title} ${short(p.costs[axis])}${between(from, to)}`;
    const node = mark(p.method, px, py, text);
    if (known(p.score).length === 3)
      node.prepend(draw("line", { class: "arm", x1: px, x2: px, y1: y.place(p.score[1]), y2: y.place(p.score[2]) }));
    if (from !== null && to !== null && (from > 0 || !wide))
      node.prepend(draw("line", { class: "arm", x1: x.place(from), x2: x.place(to), y1: py, y2: py }));
    svg.append(node);
  }
}

function trace(method, ...children) {
  const group = draw("g", { class: `trace ${look(method).colour}` }, ...children);
  group.dataset.method = method;
  return group;
}

// A line and the band about it, of points [x, y, low, high]; `corner` joins two points. The mark is
// at the first point that is not above `until`, else at the last.
function bandChart(box, chart, lines, xTitle, yTitle, corner, until = -Infinity) {
  const rows = lines.flatMap((line) => line.points);
  if (!rows.length) return;
  const { svg, x, y } = frame(box, chart.title, "", rows.map((row) => row[0]), known(rows.flatMap((row) => row.slice(1))), false, xTitle, yTitle);
  for (const line of lines) {
    const at = (place) => line.points.map((row) => [x.place(row[0]), y.place(row[place])]);
    const path = (points) => points.map(([px, py], i) => (i ? corner(px, py) : `M${px} ${py}`)).join("");
    const bands = line.points.every((row) => row[2] !== null && row[3] !== null);
    const back = at(3).reverse();
    const band = bands ? path(at(2)) + back.map(([px, py], i) => (i && corner(0, 0).startsWith("H") ? `V${py}H${px}` : `L${px} ${py}`)).join("") + "Z" : "";
    svg.append(trace(line.method, draw("path", { class: "band", d: band }), draw("path", { class: "line", d: path(at(1)) }, draw("title", {}, line.method))));
    const end = line.points.findIndex((row) => row[1] <= until), last = end < 0 ? line.points.length - 1 : end;
    svg.append(mark(line.method, ...at(1)[last], `${line.method}\n${yTitle} ${short(line.points[last][1])} at ${xTitle} ${short(line.points[last][0])}`));
  }
}

function learningChart(box, chart, quantity) {
  const lines = chart.lines.filter((line) => line.values[quantity]).map((line) => ({ method: line.method, points: line.values[quantity] }));
  bandChart(box, chart, lines, "step", quantity.replaceAll("_", " "), (x, y) => `L${x} ${y}`);
}

const profileChart = (box, chart) =>
  bandChart(box, chart, chart.lines, "score in standard deviations", "share of runs above the score", (x, y) => `H${x}V${y}`, 0.5);

function curveChart(box, chart) {
  const xs = chart.lines.flatMap((line) => line.points.map(([x]) => x));
  const ys = known(chart.lines.flatMap((line) => line.points.map(([, y]) => y)));
  if (!ys.length) return;
  const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 5;
  const { svg, x, y } = frame(box, chart.title, "", xs, ys, log, chart.setting, `selection score${chart.metric && `, ${chart.metric}`}`);
  for (const line of chart.lines) {
    let path = "", pen = "M";
    for (const [px, py] of line.points) {
      if (py === null) pen = "M";
      else { path += `${pen}${x.place(px)} ${y.place(py)}`; pen = "L"; }
    }
    svg.append(trace(line.method, draw("path", { class: "line", d: path })));
  }
  for (const line of chart.lines)
    for (const [px, py] of line.points) {
      if (py === null) continue;
      const chosen = line.chosen !== null && Math.abs(px - line.chosen) <= 1e-5 * Math.abs(line.chosen);
      const text = `${line.method}${chosen ? ", chosen" : ""}\n${chart.setting} ${short(px)}\n${chart.metric || "score"} ${short(py)}`;
      const node = mark(line.method, x.place(px), y.place(py), text);
      if (chosen) node.append(draw("circle", { class: "ring", cx: x.place(px), cy: y.place(py), r: 9 }));
      svg.append(node);
    }
}

const BOXES = Object.fromEntries(["pareto", "curves-learning", "curves", "trials", "profiles"].map((id) => [id, document.getElementById(id)]));
const valueAt = (id) => document.getElementById(id)?.value ?? "";
let picked = null;

function focus(method) {
  for (const box of Object.values(BOXES).filter(Boolean)) {
    box.classList.toggle("picked", method !== null);
    for (const node of box.querySelectorAll(".mark, .trace")) node.classList.toggle("on", node.dataset.method === method);
  }
}

function fill(id, charts, make) {
  const box = BOXES[id];
  if (!box) return;
  box.replaceChildren();
  for (const chart of charts) make(box, chart);
}

function render() {
  const [axis, task, quantity] = ["pareto-axis", "pareto-task", "learning-axis"].map(valueAt);
  const wanted = data.pareto.filter((chart) => chart.axes.includes(axis) && (task === "" || chart.title === task));
  fill("pareto", wanted, (box, chart) => paretoChart(box, chart, axis));
  fill("curves-learning", data.learning, (box, chart) => learningChart(box, chart, quantity));
  fill("curves", data.tuning, curveChart);
  fill("trials", data.trials, curveChart);
  fill("profiles", data.profiles, profileChart);
  focus(picked);
}

for (const legend of document.querySelectorAll(".legend"))
  for (const method of data.methods) {
    const node = button("", { class: look(method).colour, "aria-pressed": "false" }, () => {
      picked = picked === method ? null : method;
      for (const other of document.querySelectorAll(".legend button"))
        other.setAttribute("aria-pressed", String(other.textContent === picked));
      focus(picked);
    });
    node.append(swatch(method), method);
    node.addEventListener("pointerenter", () => focus(method));
    node.addEventListener("pointerleave", () => focus(picked));
    legend.append(node);
  }

for (const id of ["pareto-axis", "pareto-task", "learning-axis"]) document.getElementById(id)?.addEventListener("change", render);
let pageWidth = 0;
new ResizeObserver(() => {
  if (document.documentElement.clientWidth === pageWidth) return;
  pageWidth = document.documentElement.clientWidth;
  render();
}).observe(document.documentElement);
