// Sorts and filters the models, on the wall and in the table alike. A model on the wall turns while it is pointed at.
"use strict";
if (document.getElementById("wall")) {
  const wall = document.getElementById("wall");
  const table = document.getElementById("table");
  const select = document.getElementById("sort");
  const headers = [...table.querySelectorAll("th")];
  const models = [...table.querySelector("tbody").rows]
    .map((row, index) => ({ row, card: wall.children[index], text: row.textContent.toLowerCase() }));
  let column = 0;
  let sign = 1;

  // Return the value of a cell: a number, or text in lower case, or undefined for an empty cell.
  function value(model) {
    const cell = model.row.cells[column];
    const number = Number.parseFloat(cell.dataset.value);
    return cell.textContent === "" ? undefined : cell.dataset.value === undefined || Number.isNaN(number)
      ? cell.textContent.toLowerCase() : number;
  }

  // Order two values; empty ones come last in both directions, and numbers precede text.
  function compare(a, b) {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  }

  function sort() {
    models.sort((a, b) => compare(value(a), value(b)));
    wall.append(...models.map((model) => model.card));
    table.querySelector("tbody").append(...models.map((model) => model.row));
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[column].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    select.value = column;
    for (const { row, card } of models) {
      const cell = row.cells[column];
      card.querySelector(".value").textContent = cell.dataset.value === undefined ? "" : `${select.selectedOptions[0].textContent} ${cell.textContent}`;
    }
    document.getElementById("direction").textContent = sign > 0 ? "↑" : "↓";
  }

  function view(name) {
    wall.hidden = name !== "wall";
    table.hidden = name !== "table";
    for (const button of document.querySelectorAll("[data-view]")) button.ariaPressed = button.dataset.view === name;
  }

  headers.forEach((header, index) => {
    header.querySelector("button").onclick = () => {
      sign = column === index ? -sign : 1;
      column = index;
      sort();
    };
  });
  select.onchange = () => { column = Number(select.value); sign = 1; sort(); };
  document.getElementById("direction").onclick = () => { sign = -sign; sort(); };
  document.getElementById("filter").oninput = (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const { row, card, text } of models) row.hidden = card.hidden = !words.every((word) => text.includes(word));
  };
  for (const button of document.querySelectorAll("[data-view]")) button.onclick = () => view(button.dataset.view);
  for (const { card } of models) {
    card.onpointerenter = () => {
      const video = Object.assign(document.createElement("video"), { muted: true, loop: true, autoplay: true, playsInline: true });
      video.src = card.dataset.video;
      video.onerror = () => video.remove();
      card.querySelector(".view").append(video);
    };
    card.onpointerleave = () => card.querySelector("video")?.remove();
  }
  view("wall");
  sort();
}
