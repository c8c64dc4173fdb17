// Values come from the page's own attributes and are only compared, never written into it.
const bar = document.querySelector(".trace-filter"), picks = [...bar.querySelectorAll("select")];
function show() {
  for (const pair of document.querySelectorAll(".trace-pair")) {
    for (const card of pair.children)
      card.hidden = picks.some(pick => pick.value && card.dataset[pick.name] !== pick.value);
    pair.hidden = [...pair.children].every(card => card.hidden);
  }
  document.getElementById("shown").textContent =
    document.querySelectorAll(".trace-card:not([hidden])").length + " cards shown";
}
bar.addEventListener("change", show); bar.hidden = false; show();
