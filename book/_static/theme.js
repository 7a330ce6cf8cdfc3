// What the theme leaves undone for readers who do not see the page: names of its buttons that say what they show.
document.addEventListener("DOMContentLoaded", () => {
  // The search field shows "Search Ctrl+K", and its label said less.
  for (const field of document.querySelectorAll(".search-button-field[aria-label]")) field.removeAttribute("aria-label");

  // A list of pages that folds had a mark and no name.
  for (const summary of document.querySelectorAll(".bd-docs-nav summary")) {
    const page = summary.closest("li").querySelector("a").textContent.trim();
    summary.setAttribute("aria-label", `Pages of “${page}”`);
  }

  // The icons of the theme switch are pictures: each hidden one would add its own title to the button's label.
  const button = document.querySelector(".theme-switch-button");
  if (!button) return;
  const hide = () => {
    for (const icon of button.querySelectorAll("svg, i")) icon.setAttribute("aria-hidden", "true");
    for (const title of button.querySelectorAll("svg title")) title.remove();
  };
  hide();
  new MutationObserver(hide).observe(button, { childList: true, subtree: true });
});
