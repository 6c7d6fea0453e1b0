"use strict";
(() => {
  const filters = document.getElementById("filters");
  if (!filters) return;
  const [source, verdict] = filters.querySelectorAll("select");
  const cards = [...document.querySelectorAll("#gallery .card")];
  const show = () => {
    for (const card of cards) {
      const hides = (choice, own) => choice !== "" && choice !== own;
      card.hidden = hides(source.value, card.dataset.source) || hides(verdict.value, card.dataset.verdict);
    }
    const shown = cards.filter((card) => !card.hidden).length;
    document.getElementById("count").textContent = `${shown} of ${cards.length} pictures shown`;
  };
  filters.hidden = false;
  filters.addEventListener("change", show);
  show();
})();
