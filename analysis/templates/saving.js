// Tables as CSV, charts as SVG and PNG.
function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name.replace(/[^\w.-]+/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// A spreadsheet takes a text that begins so for a formula.
const field = (value) => {
  const text = typeof value === "string" && /^[=+@\t\r-]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value ?? "");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

const saveCsv = (name, rows) => download(`${name}.csv`, rows.map((row) => row.map(field).join(",")).join("\n") + "\n", "text/csv");

// What a style sheet says of a node, on the node itself: a file has no style sheet.
const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-size", "font-family", "font-weight", "font-style", "text-anchor"];

function styled(node) {
  const copy = node.cloneNode(true);
  const pairs = [[node, copy], ...[...node.querySelectorAll("*")].map((one, i) => [one, copy.querySelectorAll("*")[i]])];
  for (const [one, other] of pairs) {
    const style = getComputedStyle(one);
    for (const name of STYLES) other.style.setProperty(name, style.getPropertyValue(name));
    other.removeAttribute("tabindex");
  }
  return copy;
}

// A drawing with its title above it and the methods that it shows below.
function finished(content, title, under, width, height, methods = []) {
  const page = getComputedStyle(document.body);
  const font = page.fontFamily.replaceAll('"', "'");
  const text = (x, y, size, weight, words) => draw("text", { x, y, fill: page.color, style: `font: ${weight} ${size}px ${font}` }, words);
  const head = under ? 44 : 28;
  const keys = draw("g");
  let [x, y] = [12, height + 12];
  for (const method of methods) {
    const room = 30 + 7.5 * method.length;
    if (x + room > width && x > 12) [x, y] = [12, y + 20];
    const { colour, shape } = look(method);
    const fill = getComputedStyle(document.documentElement).getPropertyValue(`--${colour}`).trim();
    keys.append(draw("path", { d: shape, fill, transform: `translate(${x + 5} ${y - 4}) scale(0.85)` }), text(x + 16, y, 12, 400, method));
    x += room;
  }
  const whole = head + (methods.length ? y + 10 : height);
  return draw("svg", { xmlns: NS, width, height: whole, viewBox: `0 ${-head} ${width} ${whole}` },
    draw("rect", { x: 0, y: -head, width, height: whole, fill: page.backgroundColor }),
    text(8, under ? -26 : -9, 13, 600, title), text(8, -9, 11, 400, under), content, keys);
}

function saveChart(kind, title, drawing) {
  const text = new XMLSerializer().serializeToString(drawing);
  if (kind === "svg") return download(`${title}.svg`, text, "image/svg+xml");
  const image = new Image();
  image.onload = () => {
    const canvas = element("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(`${title}.png`, blob));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function saveButtons(title, drawing) {
  const make = (kind) => button(kind.toUpperCase(), { class: "save", "aria-label": `Save as ${kind.toUpperCase()}: ${title}` }, () => saveChart(kind, title, drawing()));
  return element("span", { class: "saves" }, make("svg"), " ", make("png"));
}

// A card is laid out by the browser; its drawing takes the places from there.
function cardDrawing(plot) {
  const box = plot.querySelector(".bars").getBoundingClientRect();
  const group = draw("g");
  const at = (node) => {
    const found = node.getBoundingClientRect();
    return { x: found.x - box.x + 8, y: found.y - box.y, width: found.width, height: found.height };
  };
  const line = (node, vertical) => {
    const { x, y, width, height } = at(node);
    const style = getComputedStyle(node);
    const ends = vertical ? { x1: x, x2: x, y1: y, y2: y + height } : { x1: x, x2: x + width, y1: y + height / 2, y2: y + height / 2 };
    const dashed = node.classList.contains("floor");
    group.append(draw("line", { ...ends, stroke: vertical ? style.borderLeftColor : style.backgroundColor, "stroke-width": vertical ? 1 : 2, ...(dashed ? { "stroke-dasharray": "4 3" } : {}) }));
  };
  const words = (node, anchor = "start") => {
    const { x, y, width, height } = at(node);
    const style = getComputedStyle(node);
    const place = { start: x, middle: x + width / 2, end: x + width }[anchor];
    group.append(draw("text", { x: place, y: y + height / 2 + 5, fill: style.color, "text-anchor": anchor, style: `font: ${style.fontStyle} ${style.fontSize} ${style.fontFamily.replaceAll('"', "'")}` }, node.textContent));
  };
  const mark = (svg) => {
    const { x, y, width, height } = at(svg);
    const path = svg.querySelector("path");
    group.append(draw("path", { d: path.getAttribute("d"), fill: getComputedStyle(path).fill, transform: `translate(${x + width / 2} ${y + height / 2}) scale(${width / 16})` }));
  };
  for (const node of plot.querySelectorAll(".axis > span")) line(node, true);
  for (const node of plot.querySelectorAll(".axis em")) words(node, "middle");
  for (const bar of plot.querySelectorAll(".bar")) {
    mark(bar.querySelector(".name .swatch"));
    words(bar.querySelector(".name > span"));
    words(bar.querySelector(".letters"));
    words(bar.querySelector(".value"), "end");
    line(bar.querySelector("i"), false);
    const seeds = bar.querySelector(".seeds");
    const { x, y, width, height } = at(seeds);
    const fill = getComputedStyle(seeds.querySelector("path")).stroke;
    for (const [, left] of seeds.querySelector("path").getAttribute("d").matchAll(/M([\d.]+)/g))
      group.append(draw("circle", { cx: x + (left / 100) * width, cy: y + height / 2, r: 2, fill, opacity: 0.5 }));
    mark(bar.querySelector("b .swatch"));
  }
  const drawing = finished(group, plot.dataset.title, "", box.width + 16, box.height + 26);
  const under = getComputedStyle(plot.querySelector(".under"));
  group.append(draw("text", { x: 8, y: box.height + 16, fill: under.color, style: `font: 11px ${under.fontFamily.replaceAll('"', "'")}` }, plot.querySelector(".under").textContent.trim()));
  return drawing;
}

for (const plot of document.querySelectorAll(".plot"))
  for (const node of plot.querySelectorAll(".save"))
    node.addEventListener("click", () => saveChart(node.dataset.save, plot.dataset.title, cardDrawing(plot)));
