"use strict";
(() => {
  const root = document.documentElement;
  const STEP = 500; // rows of a long table that are drawn at once
  const long = [...document.querySelectorAll("script[id$='-data']")].map((data) => data.id.slice(0, -5));
  const table = document.getElementById("fact-table");
  const packed = long.filter((id) => id !== "fact-table").map(others);
  if (table) packed.push(facts(table));
  printing();
  const measure = () => {
    root.dataset.width = root.scrollWidth;
    root.dataset.viewport = window.innerWidth;
  };
  addEventListener("resize", measure);
  measure();
  root.dataset.ready = "yes";
  Promise.all(packed).then(() => { root.dataset.whole = "yes"; });

  // Without this script the table shows all methods; with it, one at a time, sorted and filtered.
  async function facts(table) {
    const isLong = long.includes(table.id);
    const rows = isLong ? await unpacked(table.id) : [...table.tBodies[0].rows].map(standing);
    const [method, verdict, text] = ["method", "verdict", "text"].map(
      (name) => document.getElementById("pick-" + name));
    const draw = drawing(table, isLong ? STEP : rows.length);
    let order = rows;

    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      // With one method chosen, a column that repeats its name tells nothing.
      table.toggleAttribute("data-one", method.value !== "");
      const kept = order.filter((row) => (!method.value || row.method === method.value)
        && (!verdict.value || row.verdict === verdict.value)
        && (!wanted || row.words().includes(wanted)));
      draw(kept);
      document.getElementById("shown").value = kept.length + (kept.length === 1 ? " row" : " rows");
    };

    const compare = (a, b) => typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b));
    const sort = (heading, column) => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const pairs = rows.map((row) => [row, value(row.value(column))]);
      // What was not scored stands last, whichever way the column is sorted.
      pairs.sort(([, a], [, b]) => a === null || b === null
        ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
      order = pairs.map(([row]) => row);
      filter();
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

  async function others(id) {
    drawing(document.getElementById(id), STEP)(await unpacked(id));
  }

  function value(found) {
    if (found === undefined || found === null || found === "") return null;
    return isNaN(found) ? found.toLowerCase() : Number(found);
  }

  // A row that stands in the page.
  function standing(element) {
    const words = element.textContent.toLowerCase();
    return {
      method: element.dataset.cell,
      verdict: element.dataset.verdict,
      words: () => words,
      value: (column) => element.cells[column].dataset.value,
      element: () => element,
    };
  }

  // The rows of a long table, of columns as ssiuu.report.packed has them; made when they are wanted.
  async function unpacked(id) {
    const text = atob(document.getElementById(id + "-data").textContent);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const unpacker = new DecompressionStream("deflate-raw");
    const writer = unpacker.writable.getWriter();
    writer.write(bytes);
    writer.close();
    const { methods, columns, verdicts } = await new Response(unpacker.readable).json();
    return methods.flatMap((method, m) => verdicts[m].map((verdict, fact) => {
      const cell = ({ of, cells }) => of === "method" ? cells[m] : of === "fact" ? cells[fact] : cells[m][fact];
      let words = null;
      let element = null;
      return {
        method,
        verdict,
        words: () => words ??= columns.map((column) => said(cell(column))).join(" ").toLowerCase(),
        value: (column) => cell(columns[column])[0],
        element: () => element ??= made(id, method, verdict, columns, cell),
      };
    }));
  }

  // The texts of a cell: all that is behind the value, the title and each part's name.
  function said(cell) {
    return cell.filter((_, place) => place > 2 && place % 2).join("");
  }

  function made(id, method, verdict, columns, cell) {
    const row = document.createElement("tr");
    if (id === "fact-table") Object.assign(row.dataset, { cell: method, verdict });
    columns.forEach((column, place) => {
      const [value, title, ...pieces] = cell(column);
      const isHeading = id === "request-table" && place === 0;
      const box = document.createElement(isHeading ? "th" : "td");
      if (isHeading) box.scope = "row";
      if (column.name) box.className = column.name;
      if (id === "fact-table" && value !== null) box.dataset.value = value;
      if (title) box.title = title;
      for (let n = 0; n < pieces.length; n += 2) box.append(part(pieces[n], pieces[n + 1]));
      row.append(box);
    });
    return row;
  }

  function part(name, text) {
    if (!name) return document.createTextNode(text);
    const parts = document.getElementById("parts").content;
    const node = parts.querySelector(`[data-part="${name}"]`).firstElementChild.cloneNode(true);
    if (!node.textContent) node.textContent = text;
    return node;
  }

  // Draw the first rows of some, and more of them when that is asked for.
  function drawing(table, step) {
    const rest = document.getElementById(table.id + "-rest");
    return (rows) => {
      let count = Math.min(step, rows.length);
      table.tBodies[0].replaceChildren(...rows.slice(0, count).map((row) => row.element()));
      const add = (more) => {
        const next = rows.slice(count, count + more);
        count += next.length;
        table.tBodies[0].append(...next.map((row) => row.element()));
        tell();
      };
      const button = (more, name) => {
        const made = document.createElement("button");
        made.type = "button";
        made.textContent = name;
        made.addEventListener("click", () => add(more));
        return made;
      };
      const tell = () => {
        const left = rows.length - count;
        const next = Math.min(step, left);
        rest.replaceChildren(left ? `${count} of ${rows.length} rows are shown. ` : `All ${rows.length} rows are shown.`);
        if (left) rest.append(button(next, `${next} more`));
        if (left > next) rest.append(button(left, "All"));
      };
      if (rest) tell();
    };
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
