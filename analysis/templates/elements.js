// Small helpers that the other scripts share.
const NS = "http://www.w3.org/2000/svg"; // a name, not an address
const NONE = "\u2013";

function draw(name, attributes = {}, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function button(text, attributes, action) {
  const node = element("button", { type: "button", ...attributes }, text);
  node.addEventListener("click", action);
  return node;
}

// A method looks the same on every page: colour and shape follow from its name.
const look = (method) => {
  const [colour, shape] = data.looks[method] ?? [0, 0];
  return { colour: `s${colour}`, shape: SHAPES[shape] };
};

function swatch(method) {
  const { colour, shape } = look(method);
  return draw("svg", { class: `swatch ${colour}`, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, draw("path", { d: shape }));
}

const short = (value) => {
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${+(value / unit).toPrecision(3)}${sign}`;
  return size && size < 0.01 ? value.toExponential(1).replace(".0e", "e") : `${+value.toPrecision(3)}`;
};

const known = (values) => values.filter((value) => value !== null && value !== undefined);
