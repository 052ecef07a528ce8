// Sorts a table by the column whose header is clicked; a second click reverses the order. Empty cells come last.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.querySelectorAll("th")];
  const body = table.querySelector("tbody");
  headers.forEach((header, column) => {
    header.querySelector("button").onclick = () => {
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number.parseFloat(cell.dataset.value);
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
      });
      body.append(...rows);
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    };
  });
}
