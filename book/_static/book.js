// Tables on a phone, and what is folded on paper. Without this script wide tables scroll, and folded parts are not printed.
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector(".bd-article");
  if (!article) return;

  // A table too wide for a phone becomes a list: of each row a block, of each cell a line with its column's name.
  const phone = matchMedia("screen and (max-width: 700px)");
  const tables = [...article.querySelectorAll(".study-table > table, .pst-scrollable-table-container > table")].filter(
    (table) => !table.closest(".viewer") && !table.matches("#ledger, .glance, .rows") && table.tHead,
  );
  for (const table of tables) {
    // A head of several rows names a column by all that stand above it.
    const names = [];
    for (const row of table.tHead.rows) {
      let column = 0;
      for (const cell of row.cells)
        for (let end = column + cell.colSpan; column < end; column++)
          names[column] = `${names[column] ?? ""} ${cell.textContent.trim()}`.trim();
    }
    for (const body of table.tBodies)
      for (const row of body.rows)
        for (const [column, cell] of [...row.cells].entries()) {
          cell.dataset.label = names[column] ?? "";
          if (["", "–", "-"].includes(cell.textContent.trim())) cell.dataset.empty = "";
        }
  }

  function arrange() {
    for (const table of tables) {
      table.classList.remove("rows");
      const place = table.parentElement;
      table.classList.toggle("rows", phone.matches && place.scrollWidth > place.clientWidth + 1);
    }
    // What still scrolls can be reached by the keyboard.
    for (const place of article.querySelectorAll(".study-table, mjx-container[display]")) {
      const scrolls = place.scrollWidth > place.clientWidth + 1;
      const name = place.matches("mjx-container") ? "formula" : place.querySelector("caption")?.textContent || "table";
      for (const [key, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": name }))
        if (scrolls) place.setAttribute(key, value);
        else place.removeAttribute(key);
    }
  }

  arrange();
  addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(arrange));
  addEventListener("resize", arrange);
  article.addEventListener("toggle", arrange, true);

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...article.querySelectorAll("details:not([open], .hide)")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
});
