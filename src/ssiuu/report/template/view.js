"use strict";
(() => {
  const EVERY = 3000; // milliseconds between two looks
  const SHARE = 5; // so many times as long as a page took to be made, until it is made again
  const PATIENCE = 100; // times that a page is asked whether it is whole, 50 ms apart
  const KEPT = ["pick-method", "pick-verdict", "pick-text"]; // what has been chosen of the facts
  const links = [...document.querySelectorAll("#runs a")];
  const frames = [...document.querySelectorAll("iframe")];
  const beside = document.getElementById("beside");
  const live = document.getElementById("live");
  const stale = new Set(); // runs that have gone on since their page was made
  const resting = new Set(); // runs whose page is being made, or has just been: the run needs the machine
  let shown = 0;

  links.forEach((link, number) => link.addEventListener("click", (event) => {
    event.preventDefault();
    links[shown].removeAttribute("aria-current");
    links[shown = number].setAttribute("aria-current", "true");
    show();
    frames[number].scrollIntoView({ inline: "start" });
    if (!asking.hidden) choices();
  }));
  beside.hidden = links.length < 2;
  beside.addEventListener("click", () => {
    beside.setAttribute("aria-pressed", String(!all()));
    document.body.classList.toggle("beside", all());
    show();
  });

  const ask = document.getElementById("ask"), asking = document.getElementById("asking");
  const [question, choice, told, said] = ["question", "choice", "told", "said"]
    .map((id) => document.getElementById(id));
  ask.addEventListener("click", () => {
    asking.hidden = !asking.hidden;
    ask.setAttribute("aria-expanded", String(!asking.hidden));
    if (!asking.hidden) choices();
  });
  asking.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    put();
  });

  // Which models of the run that is shown may be asked.
  async function choices() {
    const number = shown;
    const { choices, error } = await answered(number);
    if (number !== shown) return;
    choice.replaceChildren(...choices.map((name) => new Option(name)));
    choice.parentElement.hidden = choices.length < 2;
    for (const control of [question, asking.querySelector("form button")]) control.disabled = !choices.length;
    told.textContent = choices.length ? "" : error ?? "Nothing can be asked here.";
    if (choices.length) question.focus();
  }

  async function answered(number, asked) {
    try {
      const body = asked && JSON.stringify(asked);
      return await (await fetch(`${number}/ask`, body ? { method: "POST", body } : {})).json();
    } catch {
      return { choices: [], error: "ssiuu view does not answer." };
    }
  }

  // Put the question, and show what both say above what was said before.
  async function put() {
    const number = shown, text = question.value.trim(), button = asking.querySelector("form button");
    if (!text) return;
    button.disabled = true;
    told.textContent = "asking; the first question loads both models";
    const answer = await answered(number, { choice: choice.value, question: text });
    button.disabled = false;
    told.textContent = answer.error ?? `asked as ${answer.form}`;
    if (answer.error) return;
    const entry = made("article", ""), list = made("dl", "");
    for (const [place, when] of [[0, "before"], [1, "after"]]) {
      const half = made("div", "");
      half.append(made("dt", `${when}: ${answer.names[place]}`), made("dd", answer[when] || "(nothing)"));
      list.append(half);
    }
    entry.append(made("h3", text), list);
    said.prepend(entry);
    question.select();
  }

  function made(name, text) {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  }

  function all() {
    return beside.getAttribute("aria-pressed") === "true";
  }

  function show() {
    frames.forEach((frame, number) => {
      frame.hidden = !all() && number !== shown;
      if (frame.hidden) return;
      if (!frame.getAttribute("src")) {
        rest(number);
        frame.src = links[number].href;
      } else if (stale.has(number) && !resting.has(number)) {
        stale.delete(number);
        rest(number);
        again(number);
      }
    });
  }

  // Leave a page alone until it is there, and for some time after.
  function rest(number) {
    const begun = performance.now();
    resting.add(number);
    frames[number].addEventListener("load", async () => {
      await later(SHARE * (performance.now() - begun));
      resting.delete(number);
    }, { once: true });
  }

  // A page again, with all that its reader has done to it.
  function again(number) {
    const frame = frames[number], restore = kept(frame.contentWindow);
    frame.addEventListener("load", () => restore(frame.contentWindow), { once: true });
    frame.contentWindow.location.replace(links[number].href);
  }

  // Remember what was searched for, sorted, opened and typed, and where one had read to.
  function kept(window) {
    const page = window.document, place = window.scrollY;
    const values = KEPT.map((id) => page.getElementById(id)?.value);
    const opened = titles(page).filter(([item]) => item.open).map(([, title]) => title);
    const column = headings(page).findIndex((heading) => heading.hasAttribute("aria-sort"));
    const down = headings(page)[column]?.getAttribute("aria-sort") === "descending";
    const field = page.activeElement?.id, at = page.activeElement?.selectionStart;
    const inside = document.activeElement === window.frameElement;
    return async (after) => {
      const now = after.document;
      for (let n = 0; n < PATIENCE && now.documentElement.dataset.whole !== "yes"; n++) await later(50);
      KEPT.forEach((id, n) => {
        const control = now.getElementById(id);
        if (!control || values[n] === undefined || control.value === values[n]) return;
        control.value = values[n];
        control.dispatchEvent(new Event("input"));
      });
      for (const [item, title] of titles(now)) if (opened.includes(title)) item.open = true;
      for (let n = 0; n <= Number(down); n++) headings(now)[column]?.querySelector("button")?.click();
      if (inside && field && now.getElementById(field)) {
        now.getElementById(field).focus({ preventScroll: true });
        if (typeof at === "number") now.getElementById(field).setSelectionRange?.(at, at);
      }
      after.scrollTo(0, place);
    };
  }

  function titles(page) {
    return [...page.querySelectorAll("details")]
      .map((item) => [item, item.querySelector("summary")?.textContent]);
  }

  function headings(page) {
    return [...(page.querySelector("#fact-table thead tr")?.cells ?? [])];
  }

  function later(milliseconds) {
    return new Promise((done) => { setTimeout(done, milliseconds); });
  }

  async function look() {
    try {
      const states = await (await fetch("state")).json();
      live.textContent = "live";
      states.forEach((state, number) => {
        const link = links[number], changed = link.dataset.stamp !== state.stamp;
        link.dataset.stamp = state.stamp;
        link.querySelector("small").textContent = state.told;
        if (changed && frames[number].getAttribute("src")) stale.add(number);
      });
      show();
    } catch {
      live.textContent = "ssiuu view has ended: this is the page as it was";
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
