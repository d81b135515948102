"use strict";
(() => {
  const EVERY = 3000; // milliseconds between two looks
  const KEPT = ["pick-method", "pick-verdict", "pick-text"]; // what has been chosen of the facts
  const links = [...document.querySelectorAll("#runs a")];
  const frame = document.querySelector("iframe");
  const live = document.getElementById("live");
  let shown = 0;

  links.forEach((link, number) => link.addEventListener("click", (event) => {
    event.preventDefault();
    links[shown].removeAttribute("aria-current");
    links[shown = number].setAttribute("aria-current", "true");
    show();
  }));

  // The page again, with what was searched for and where one had read to.
  function show(again) {
    const before = frame.contentWindow, page = before.document;
    const place = again ? before.scrollY : 0;
    const kept = again ? KEPT.map((id) => page.getElementById(id)?.value) : [];
    frame.addEventListener("load", () => {
      KEPT.forEach((id, number) => {
        const field = frame.contentWindow.document.getElementById(id);
        if (!field || kept[number] === undefined || field.value === kept[number]) return;
        field.value = kept[number];
        field.dispatchEvent(new Event("input"));
      });
      frame.contentWindow.scrollTo(0, place);
    }, { once: true });
    before.location.replace(links[shown].href);
  }

  async function look() {
    try {
      const states = await (await fetch("state")).json();
      live.textContent = "live";
      states.forEach((state, number) => {
        const link = links[number], changed = link.dataset.stamp !== state.stamp;
        link.dataset.stamp = state.stamp;
        link.querySelector("small").textContent = state.told;
        if (changed && number === shown) show(true);
      });
    } catch {
      live.textContent = "ssiuu view has ended: this is the page as it was";
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
