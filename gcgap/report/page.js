"use strict";
// A click on a heading sorts its table by that column; another one turns the order round. Empty cells stay last.
const number = (key) => (key.trim() === "" ? NaN : Number(key));
function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}
function sort(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = (row) => row.cells[column].dataset.key;
  const rows = [...body.rows].sort((a, b) => (key(a) === "") - (key(b) === "") || sign * compare(key(a), key(b)));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (button) sort(button.parentElement);
});
