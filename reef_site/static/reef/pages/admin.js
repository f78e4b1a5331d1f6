// Lists of the admin on narrow screens: cells get the names of their columns, see admin.css.

for (const table of document.querySelectorAll("#result_list")) {
  const names = [...table.tHead.rows[0].cells].map(
    (cell) => !cell.classList.contains("action-checkbox-column") && cell.querySelector(".text")?.textContent.trim(),
  );
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.cells].forEach((cell, at) => {
      if (names[at] && cell.tagName === "TD") cell.dataset.label = names[at];
      if (["", "-", "—"].includes(cell.textContent.trim()) && !cell.childElementCount) cell.dataset.empty = "";
    });
  }
}
