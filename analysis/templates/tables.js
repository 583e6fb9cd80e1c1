// Tables: a click on a head sorts, text and pickers filter.
const compare = (a, b) => {
  if (a === "" || b === "") return null;
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
};

// Whether a head is to sort upwards now, marked on it and on the others.
function turn(head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  return up;
}

function ordered(rows, key, up) {
  return rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = compare(x, y);
    if (order === null) return (x === "") - (y === ""); // unknown values come last
    return up ? order : -order;
  });
}

const keyOf = (cell) => cell.dataset.key ?? cell.textContent;
const countText = (shown, every) => (shown === every ? `${every} rows` : `${shown} of ${every} rows`);

// What is not known is not shown to be that small.
const isAtMost = (cell, most) => keyOf(cell) !== "" && Number(keyOf(cell)) <= most;

// In a file a number has all the digits that the page knows of it.
const valueOf = (cell) => {
  const key = cell.dataset.key;
  return key === undefined || key === "" || Number.isNaN(Number(key)) ? cell.textContent : Number(key);
};

for (const box of document.querySelectorAll(".data[data-table]")) {
  const table = box.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    head.firstElementChild.addEventListener("click", () =>
      table.tBodies[0].append(...ordered([...rows], (row) => keyOf(row.children[place]), turn(head))));
  });
  const heads = () => [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  box.querySelector(".save").addEventListener("click", () =>
    saveCsv(box.dataset.table, [heads(), ...[...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(valueOf))]));
  const search = box.querySelector("input[type=search]");
  if (!search) continue;
  const pickers = [...box.querySelectorAll("select")];
  const limits = [...box.querySelectorAll("input[type=number]")];
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits =
        words.every((word) => text.includes(word)) &&
        pickers.every((p) => !p.value || row.children[p.dataset.column].textContent === p.value) &&
        limits.every((most) => !most.value || isAtMost(row.children[most.dataset.column], Number(most.value)));
      row.hidden = !fits;
      shown += fits;
    }
    box.querySelector(".count").textContent = countText(shown, rows.length);
  };
  for (const field of [search, ...limits]) field.addEventListener("input", filter);
  for (const picker of pickers) picker.addEventListener("change", filter);
  filter();
}
