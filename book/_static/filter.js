// Filters the ledger, or the list of disagreements, by what its selects name and by words. Without this script the
// whole table is shown.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("ledger");
  const controls = document.getElementById("ledger-controls");
  if (!table || !controls) return;

  const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const fields = [...controls.querySelectorAll("select")];
  const words = controls.querySelector("input");
  const count = document.getElementById("ledger-count");

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const fits =
        fields.every((field) => !field.value || row.dataset[field.name] === field.value) &&
        wanted.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} ${table.dataset.rows || "claims"}`;
    const query = new URLSearchParams();
    for (const field of [...fields, words]) if (field.value) query.set(field.name, field.value);
    const address = (query.size ? `?${query}` : location.pathname) + location.hash;
    if (location.protocol !== "file:") history.replaceState(null, "", address);
  }

  // A link to a row shows it, whatever was filtered.
  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !table.contains(target)) return;
    if (target.closest("tr")?.hidden) {
      for (const field of [...fields, words]) field.value = "";
      filter();
    }
    target.scrollIntoView();
  }

  // A filter is part of the address, so that it can be sent to somebody.
  const query = new URLSearchParams(location.search);
  for (const field of [...fields, words]) if (query.has(field.name)) field.value = query.get(field.name);
  for (const field of [...fields, words]) field.addEventListener("input", filter);
  controls.hidden = false;
  filter();
  reveal();
  window.addEventListener("hashchange", reveal);

  // A search of the book that led here goes on in the table, if it finds something there.
  const from = document.referrer && new URL(document.referrer);
  if (!query.size && !location.hash && from && from.origin === location.origin && from.pathname.endsWith("/search.html")) {
    words.value = from.searchParams.get("q") ?? "";
    filter();
    if (rows.every(({ row }) => row.hidden)) words.value = "";
    filter();
  }
});
