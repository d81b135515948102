"use strict";
(() => {
  const root = document.documentElement;
  const table = document.getElementById("fact-table");
  if (table) facts(table);
  printing();
  const measure = () => {
    root.dataset.width = root.scrollWidth;
    root.dataset.viewport = window.innerWidth;
  };
  addEventListener("resize", measure);
  measure();
  root.dataset.ready = "yes";

  // Without this script the table shows all methods; with it, one at a time, sorted and filtered.
  function facts(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const [method, verdict, text] = ["method", "verdict", "text"].map(
      (name) => document.getElementById("pick-" + name));
    const words = rows.map((row) => row.textContent.toLowerCase());

    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      // With one method chosen, a column that repeats its name tells nothing.
      table.toggleAttribute("data-one", method.value !== "");
      rows.forEach((row, index) => {
        const keep = (!method.value || row.dataset.cell === method.value)
          && (!verdict.value || row.dataset.verdict === verdict.value)
          && words[index].includes(wanted);
        row.hidden = !keep;
        shown += keep;
      });
      document.getElementById("shown").value = shown + (shown === 1 ? " row" : " rows");
    };

    const value = (row, column) => {
      const found = row.cells[column].dataset.value;
      if (found === undefined || found === "") return null;
      return isNaN(found) ? found.toLowerCase() : Number(found);
    };
    const compare = (a, b) => typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b));
    const sort = (heading, column) => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = rows.map((row) => [row, value(row, column)]);
      // What was not scored stands last, whichever way the column is sorted.
      order.sort(([, a], [, b]) => a === null || b === null
        ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
      body.append(...order.map(([row]) => row));
    };

    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(heading, column));
      heading.append(button);
    });
    for (const control of [method, verdict, text]) control.addEventListener("input", filter);
    document.querySelector(".controls").hidden = false;
    filter();
  }

  // On paper nothing can be opened: all details are, and close again afterwards.
  function printing() {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const item of opened) item.open = true;
    });
    addEventListener("afterprint", () => {
      for (const item of opened) item.open = false;
    });
  }
})();
