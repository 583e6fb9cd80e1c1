"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SHAPES = {{ shapes | tojson }};
  const NS = "http://www.w3.org/2000/svg"; // a name, not an address

  // Tables: a click on a head sorts, text and pickers filter.
  const compare = (a, b) => {
    if (a === "" || b === "") return null;
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  function sort(table, head, place) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.children[place].dataset.key ?? row.children[place].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const order = compare(key(a), key(b));
      if (order === null) return (key(a) === "") - (key(b) === ""); // what is not known comes last
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }

  for (const box of document.querySelectorAll(".data")) {
    const table = box.querySelector("table");
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      head.firstElementChild.addEventListener("click", () => sort(table, head, place));
    });
    const search = box.querySelector("input");
    if (!search) continue;
    const pickers = [...box.querySelectorAll("select")];
    const count = box.querySelector(".count");
    const rows = [...table.tBodies[0].rows];
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits =
          words.every((word) => text.includes(word)) &&
          pickers.every((p) => !p.value || row.children[p.dataset.column].textContent === p.value);
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    search.addEventListener("input", filter);
    for (const picker of pickers) picker.addEventListener("change", filter);
    filter();
  }

  // Charts.
  const tip = document.getElementById("tip");
  const look = (method) => {
    const i = data.methods.indexOf(method);
    return { colour: `s${i % 8}`, shape: SHAPES[(i + Math.floor(i / 8)) % 8] };
  };

  function draw(name, attributes = {}, ...children) {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function element(name, text, ...children) {
    const node = document.createElement(name);
    if (text) node.append(text);
    node.append(...children);
    return node;
  }

  function swatch(method) {
    const { colour, shape } = look(method);
    return draw("svg", { class: `swatch ${colour}`, viewBox: "-8 -8 16 16" }, draw("path", { d: shape }));
  }

  const short = (value) => {
    const size = Math.abs(value);
    for (const [unit, sign] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (size >= unit) return `${+(value / unit).toPrecision(3)}${sign}`;
    return size && size < 0.01 ? value.toExponential(0) : `${+value.toPrecision(3)}`;
  };

  function scale(values, from, to, log) {
    const by = log ? Math.log10 : (x) => x;
    const back = log ? (x) => 10 ** x : (x) => x;
    let [low, high] = [Math.min(...values.map(by)), Math.max(...values.map(by))];
    const margin = (high - low) * 0.08 || (log ? 0.5 : Math.abs(high) * 0.05 || 1);
    [low, high] = [low - margin, high + margin];
    const place = (x) => from + ((by(x) - low) / (high - low)) * (to - from);
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
      for (const n of steps) if (n * 10 ** p >= low && n * 10 ** p <= high) found.push(n * 10 ** p);
    return found.length > 1 ? found : ticks(low, high);
  }

  const LEFT = 40, TOP = 16, BOTTOM = 44, HEIGHT = 260;

  function frame(box, title, note, xs, ys, log, xTitle, yTitle) {
    const under = [yTitle, note].filter(Boolean).join(", ");
    const figure = element("figure", "", element("figcaption", title, element("small", under)));
    figure.className = "chart";
    box.append(figure);
    const width = Math.max(figure.clientWidth - 32, 200);
    const x = scale(xs, LEFT, width - 8, log);
    const y = scale(ys, HEIGHT - BOTTOM, TOP, false);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": title });
    for (const tick of y.ticks) {
      const at = y.place(tick);
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - 8, y1: at, y2: at }));
      svg.append(draw("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of x.ticks)
      svg.append(draw("text", { x: x.place(tick), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, short(tick)));
    svg.append(draw("text", { x: (LEFT + width) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xTitle));
    figure.append(svg);
    return { svg, x, y };
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

  const known = (values) => values.filter((value) => value !== null && value !== undefined);
  const between = (low, high) => (low === null || high === null ? "" : ` (${short(low)} to ${short(high)})`);

  function paretoChart(box, chart, axis) {
    const points = chart.points.filter((p) => p.costs[axis] !== null);
    const { title, log } = data.axes[axis];
    if (points.length < 1) return;
    // A method that trains nothing has a place only where the axis is linear.
    const logs = log && points.every((p) => p.costs[axis] > 0);
    const xs = known(points.flatMap((p) => [p.costs[axis], ...p.ends[axis]])).filter((v) => !logs || v > 0);
    const ys = known(points.flatMap((p) => p.score));
    const wide = logs && Math.max(...xs) / Math.min(...xs) > 5;
    const { svg, x, y } = frame(box, chart.title, several ? chart.stack : "", xs, ys, wide, title, chart.metric);
    const best = points.filter((p) => p.front.includes(axis)).sort((a, b) => a.costs[axis] - b.costs[axis]);
    const path = best.map((p, i) => {
      const [px, py] = [x.place(p.costs[axis]), y.place(p.score[0])];
      return i ? `H${px}V${py}` : `M${px} ${py}`;
    });
    svg.append(draw("path", { class: "front", d: path.join("") }));
    for (const p of points) {
      const [px, py] = [x.place(p.costs[axis]), y.place(p.score[0])];
      const [low, high] = p.ends[axis];
      const text = `${p.method}\n${chart.metric} ${short(p.score[0])}${between(p.score[1], p.score[2])}\n${title} ${short(p.costs[axis])}${between(low, high)}`;
      const node = mark(p.method, px, py, text);
      if (known(p.score).length === 3)
        node.prepend(draw("line", { class: "arm", x1: px, x2: px, y1: y.place(p.score[1]), y2: y.place(p.score[2]) }));
      if (low !== null && high !== null && (low > 0 || !wide))
        node.prepend(draw("line", { class: "arm", x1: x.place(low), x2: x.place(high), y1: py, y2: py }));
      svg.append(node);
    }
  }

  function curveChart(box, chart) {
    const xs = chart.lines.flatMap((line) => line.points.map(([x]) => x));
    const ys = known(chart.lines.flatMap((line) => line.points.map(([, y]) => y)));
    if (!ys.length) return;
    const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 5;
    const { svg, x, y } = frame(box, chart.title, "", xs, ys, log, chart.setting, `selection score${chart.metric && `, ${chart.metric}`}`);
    for (const line of chart.lines) {
      const { colour } = look(line.method);
      const group = draw("g", { class: `trace ${colour}` });
      group.dataset.method = line.method;
      let path = "", pen = "M";
      for (const [px, py] of line.points) {
        if (py === null) pen = "M";
        else { path += `${pen}${x.place(px)} ${y.place(py)}`; pen = "L"; }
      }
      group.append(draw("path", { class: "line", d: path }));
      svg.append(group);
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

  const stacks = new Set(data.pareto.map((chart) => chart.stack));
  const several = stacks.size > 1;
  const pareto = document.getElementById("pareto");
  const curves = document.getElementById("curves");
  const trials = document.getElementById("trials");
  let picked = null;

  function focus(method) {
    for (const box of [pareto, curves, trials].filter(Boolean)) {
      box.classList.toggle("picked", method !== null);
      for (const node of box.querySelectorAll(".mark, .trace")) node.classList.toggle("on", node.dataset.method === method);
    }
  }

  function render() {
    if (pareto) {
      const axis = document.getElementById("pareto-axis").value;
      const task = document.getElementById("pareto-task").value;
      pareto.replaceChildren();
      data.pareto.forEach((chart, i) => (task === "" || task === String(i)) && paretoChart(pareto, chart, axis));
    }
    if (curves) {
      curves.replaceChildren();
      for (const chart of data.tuning) curveChart(curves, chart);
    }
    if (trials) {
      trials.replaceChildren();
      for (const chart of data.trials) curveChart(trials, chart);
    }
    focus(picked);
  }

  for (const legend of document.querySelectorAll(".legend"))
    for (const method of data.methods) {
      const button = element("button", "", swatch(method), method);
      button.type = "button";
      button.className = look(method).colour;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("pointerenter", () => focus(method));
      button.addEventListener("pointerleave", () => focus(picked));
      button.addEventListener("click", () => {
        picked = picked === method ? null : method;
        for (const other of document.querySelectorAll(".legend button"))
          other.setAttribute("aria-pressed", String(other.textContent === picked));
        focus(picked);
      });
      legend.append(button);
    }

  for (const id of ["pareto-axis", "pareto-task"]) document.getElementById(id)?.addEventListener("change", render);
  let width = 0;
  new ResizeObserver(() => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    render();
  }).observe(document.documentElement);
})();
