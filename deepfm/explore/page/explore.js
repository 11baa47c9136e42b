"use strict";
// All that comes from the server becomes text nodes and attributes, never markup.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const WAIT = 250; // ms between the last key and a request

const state = {
  about: null, // what the model is
  base: {}, // values by column before anything was typed
  typed: {}, // what was typed in their place
  history: null, // ids of items, oldest first, in the place of the user's own
  past: [], // what is shown of the history
  ranks: new Map(), // rank by item in the list before
  chosen: null, // the item that is explained
  target: 0,
  example: 0,
  asked: { rank: 0, explain: 0 }, // numbers of requests: only the newest answer counts
  drawn: [], // charts, to be drawn anew where the width changes
};

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawing(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(what, asked = {}) {
  const response = await fetch(`/api/${what}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(asked),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(3);
const fixed = (number) => (number < 0 ? "−" : "") + Math.abs(number).toFixed(4);

function later(act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, WAIT);
  };
}

// ---- the form

function makeForm() {
  const { about } = state;
  byId("model").textContent = `${about.models.join(", ")} · values are drawn from ${about.draws}`;
  byId("form-title").textContent = about.ranks ? "User" : "Row";
  byId("result-title").textContent = about.ranks ? "Ranked list" : "Prediction";
  byId("next").textContent = about.ranks ? "New user" : "Another row";
  byId("next").hidden = !about.ranks && about.examples.length < 2;
  byId("who").hidden = !about.ranks;
  for (const column of about.columns) {
    if (column.name === about.user_column) continue;
    const id = `column-${column.name}`;
    const options = column.choices.map((choice) => element("option", { value: choice }));
    const input = element("input", {
      id,
      spellcheck: "false",
      inputmode: column.is_number ? "decimal" : null,
      list: options.length ? `${id}-choices` : null,
      "data-column": column.name,
      on: { input: typing },
    });
    const name = column.is_list ? `${column.name} (a|b|c)` : column.name;
    byId("fields").append(element("label", { for: id }, name), input);
    if (options.length) byId("fields").append(element("datalist", { id: `${id}-choices` }, ...options));
  }
}

const inputs = () => [...byId("fields").querySelectorAll("input")];

function fill(values) {
  state.base = values;
  for (const input of inputs()) {
    const column = input.dataset.column;
    const text = column in state.typed ? state.typed[column] : values[column] || "";
    if (document.activeElement !== input) input.value = text;
    input.classList.toggle("changed", column in state.typed);
  }
}

function typing(event) {
  const { column } = event.target.dataset;
  const text = event.target.value;
  if (text === (state.base[column] || "")) delete state.typed[column];
  else state.typed[column] = text;
  event.target.classList.toggle("changed", column in state.typed);
  refreshLater();
}

function undo() {
  state.typed = {};
  state.history = null;
  for (const input of inputs()) input.value = state.base[input.dataset.column] || "";
  refresh();
}

function next() {
  const { about } = state;
  state.typed = {};
  state.history = null;
  state.ranks = new Map();
  if (about.ranks) {
    byId("user").value = "";
    state.base = {};
    for (const input of inputs()) input.value = "";
    (inputs()[0] || byId("user")).focus();
  } else {
    state.example = (state.example + 1) % about.examples.length;
    fill(about.examples[state.example]);
  }
  refresh();
}

// ---- lists and predictions

const person = () => ({ user: byId("user").value.trim(), typed: state.typed, history: state.history });
const row = () => ({ typed: Object.fromEntries(inputs().map((input) => [input.dataset.column, input.value])) });

async function refresh() {
  const number = ++state.asked.rank;
  const { ranks } = state.about;
  try {
    const answer = await (ranks ? ask("rank", person()) : ask("score", row()));
    if (number !== state.asked.rank) return;
    byId("problem").textContent = "";
    const unseen = answer.unknown.join(", ");
    byId("unknown").textContent = unseen && `Not seen in training: ${unseen}`;
    if (ranks) showList(answer);
    else showPrediction(answer.predictions);
    if (!ranks || state.chosen !== null) await explain();
  } catch (error) {
    if (number === state.asked.rank) byId("problem").textContent = error.message;
  }
}
const refreshLater = later(refresh);

function showPrediction(predictions) {
  const shown = Object.entries(predictions).map(([name, value]) =>
    element("div", {}, element("div", { class: "note" }, name), element("div", { class: "large" }, fixed(value)))
  );
  byId("list").replaceChildren(...shown);
  byId("status").textContent = "";
}

function showList(answer) {
  const { about } = state;
  fill(answer.known || {});
  const user = byId("user").value.trim();
  const note = answer.known ? "A known user." : user ? "No known user: served as a new one." : "A new user.";
  byId("user-note").textContent = `${note} Type another id, or change the fields below.`;
  showHistory(answer.history);
  const what = about.is_score ? "score" : "probability";
  const before = state.ranks;
  state.ranks = new Map(answer.items.map(({ item }, place) => [item, place + 1]));
  let moved = 0;
  const rows = answer.items.map(({ item, title, prediction }, place) => {
    const was = before.get(item);
    const move = element("td", { class: "number" });
    if (before.size && was !== place + 1) {
      moved += 1;
      const up = was === undefined || was > place + 1;
      const by = was === undefined ? "new" : `${up ? "▲" : "▼"} ${Math.abs(was - place - 1)}`;
      const said = was === undefined ? "new in the list" : `${up ? "up" : "down"} ${Math.abs(was - place - 1)}`;
      move.append(element("span", { class: up ? "up" : "down", "aria-label": said, role: "img" }, by));
    }
    const name = title === null ? item : `${title}`;
    const button = element(
      "button",
      { type: "button", class: "item", "aria-pressed": String(item === state.chosen), on: { click: () => choose(item) } },
      name
    );
    return element(
      "tr",
      { class: item === state.chosen ? "chosen" : null, "data-item": item },
      element("td", { class: "number" }, String(place + 1)),
      move,
      element("td", {}, button),
      element("td", { class: "number" }, fixed(prediction))
    );
  });
  const head = ["", "moved", "item", what].map((name, place) =>
    element("th", { scope: "col", class: place === 2 ? null : "number" }, name || "rank")
  );
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows)
  );
  const focused = document.activeElement && document.activeElement.closest("tr[data-item]");
  const held = focused && focused.dataset.item;
  byId("list").replaceChildren(element("div", { class: "scroll" }, table));
  if (held) {
    const again = [...byId("list").querySelectorAll("tr[data-item]")].find((r) => r.dataset.item === held);
    if (again) again.querySelector("button").focus();
  }
  const count = `${answer.items.length} items`;
  byId("status").textContent = before.size ? `${count}, ${moved} moved. ` : `${count}. `;
  byId("status").append("Choose one to see what changes its logit.");
}

function showHistory(history) {
  const { about } = state;
  byId("past").hidden = false;
  byId("adding").hidden = !about.reads_history;
  state.past = history.map(({ item }) => item);
  const changed = state.history === null ? "" : " Changed by hand.";
  byId("past-note").textContent = about.reads_history
    ? `${history.length} items that the model reads, the newest first.${changed}`
    : `${history.length} items that the list leaves out. The model does not read them.`;
  const lines = history.map(({ item, title }, place) => {
    const name = title === null ? item : `${title}`;
    const line = element("li", {}, element("span", {}, name));
    if (about.reads_history) {
      const drop = () => {
        state.history = state.past.filter((_, other) => other !== place);
        refresh();
      };
      line.append(element("button", { type: "button", "aria-label": `Remove ${name}`, on: { click: drop } }, "×"));
    }
    return line;
  });
  byId("history").replaceChildren(...lines.reverse());
}

async function addItem(event) {
  event.preventDefault();
  const item = byId("add").value.trim();
  if (!item) return;
  state.history = [...state.past, item];
  byId("add").value = "";
  await refresh();
}

async function suggest(of, input, list) {
  try {
    const found = await ask("suggest", { of, text: input.value.trim() });
    const options = found.map((one) =>
      of === "users" ? element("option", { value: one }) : element("option", { value: one.item }, one.title || one.item)
    );
    list.replaceChildren(...options);
  } catch {
    list.replaceChildren();
  }
}

// ---- what changes the logit

async function choose(item) {
  state.chosen = item;
  for (const line of byId("list").querySelectorAll("tr[data-item]")) {
    const is = line.dataset.item === item;
    line.classList.toggle("chosen", is);
    line.querySelector("button").setAttribute("aria-pressed", String(is));
  }
  await explain();
  if (window.matchMedia("(max-width: 720px)").matches) byId("why").scrollIntoView();
}

async function explain() {
  const number = ++state.asked.explain;
  const asked = state.about.ranks ? { ...person(), item: state.chosen } : row();
  try {
    const found = await ask("explain", { ...asked, target: state.target });
    if (number === state.asked.explain) showExplanation(found);
  } catch (error) {
    if (number === state.asked.explain) byId("why-status").textContent = error.message;
  }
}

function showExplanation(found) {
  const { about } = state;
  const name = about.targets[state.target].name;
  const line = [...byId("list").querySelectorAll("tr.chosen button")].map((button) => button.textContent)[0];
  const subject = about.ranks ? line || `item ${state.chosen}` : "this row";
  const of = found.what === "logit" ? "logit" : found.what;
  byId("why-title").textContent = `What changes the ${of}`;
  byId("why-status").textContent = `${subject}: ${of} ${fixed(found.logit)}, ${name} ${fixed(found.predictions[name])}.`;
  const named = (features) =>
    features.map((feature) => (found.values[feature] ? `${feature} = ${found.values[feature]}` : feature)).join(" × ");
  const charts = [];
  if (about.targets.length > 1) charts.push(targetChoice());
  if (found.parts) {
    charts.push(
      chart(
        `Parts of the ${of}`,
        "They add up to it.",
        found.parts.map(({ name: part, value }) => ({ name: part, mean: value })),
        "value"
      )
    );
  }
  charts.push(
    chart(
      "One field replaced",
      `What replacing a field changes the ${of} by, all others as they are: the mean over ${found.draws}. Lines reach from the 10 % to the 90 % quantile.`,
      found.effects.map((effect) => ({ ...effect, name: named(effect.features) })),
      "mean change"
    )
  );
  if (found.pairs.length) {
    const of_how_many = `The largest ${found.pairs.length} of ${found.num_pairs} pairs`;
    const among =
      found.num_paired && found.num_paired < found.num_features
        ? ` of the ${found.num_paired} fields with the largest changes`
        : "";
    charts.push(
      chart(
        "Two fields together",
        found.pairs_are_exact
          ? `${of_how_many}: the term of the ${of} that two fields have together.`
          : `${of_how_many}${among}: what replacing both changes the ${of} by beyond their two single changes, over ${found.pair_draws} rows.`,
        found.pairs.map((pair) => ({ ...pair, name: named(pair.features) })),
        found.pairs_are_exact ? "term" : "mean change"
      )
    );
  }
  charts.push(
    element("p", { class: "note" }, "Measured on the model: how its output changes, not how the world would.")
  );
  byId("charts").replaceChildren(...charts);
  draw();
}

function targetChoice() {
  const options = state.about.targets.map(({ name }, place) =>
    element("option", { value: String(place), selected: place === state.target }, name)
  );
  const change = (event) => {
    state.target = Number(event.target.value);
    explain();
  };
  const select = element("select", { id: "target", on: { change } }, ...options);
  return element("div", {}, element("label", { for: "target" }, "Prediction"), select);
}

function chart(title, text, bars, what) {
  const spread = bars.some((bar) => bar.low !== undefined);
  const label = `${title}: ` + bars.slice(0, 5).map((bar) => `${bar.name} ${signed(bar.mean)}`).join("; ");
  const svg = drawing("svg", { role: "img", "aria-label": label, "data-bars": bars.length });
  svg.bars = bars;
  const columns = ["field", what, ...(spread ? ["deviation", "10 %", "90 %"] : [])];
  const rows = bars.map((bar) => {
    const numbers = [bar.mean, ...(spread ? [bar.deviation, bar.low, bar.high] : [])];
    return element(
      "tr",
      {},
      element("td", {}, bar.name),
      ...numbers.map((number) => element("td", { class: "number" }, signed(number)))
    );
  });
  const head = columns.map((name, place) => element("th", { scope: "col", class: place ? "number" : null }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element(
    "figure",
    {},
    element("figcaption", {}, element("b", {}, title), text),
    svg,
    element("details", {}, element("summary", {}, "As a table"), element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, table))
  );
}

// Two lines per bar, a name with its number and the bar below, so that nothing can overlap.
const LINE = 38;
const NUMBER = 70;

function draw() {
  for (const svg of byId("charts").querySelectorAll("svg")) {
    const width = Math.max(200, svg.parentElement.clientWidth);
    const { bars } = svg;
    const ends = bars.flatMap((bar) => [bar.mean, bar.low ?? 0, bar.high ?? 0, 0]);
    const low = Math.min(...ends);
    const span = Math.max(...ends) - low || 1;
    const x = (value) => 4 + ((value - low) / span) * (width - 8);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${bars.length * LINE + 4}`);
    svg.setAttribute("height", bars.length * LINE + 4);
    bars.forEach((bar, place) => {
      const top = place * LINE;
      const name = drawing("text", { x: 4, y: top + 15 }, bar.name);
      svg.append(name, drawing("text", { x: width - 4, y: top + 15, "text-anchor": "end" }, signed(bar.mean)));
      shorten(name, bar.name, width - NUMBER - 8);
      const middle = top + 27;
      svg.append(
        drawing("rect", {
          x: Math.min(x(0), x(bar.mean)),
          y: top + 21,
          width: Math.max(1, Math.abs(x(bar.mean) - x(0))),
          height: 12,
          class: bar.mean < 0 ? "less" : "more",
        })
      );
      if (bar.low !== undefined) {
        const line = (x1, y1, x2, y2) => svg.append(drawing("line", { x1, y1, x2, y2, class: "spread" }));
        line(x(bar.low), middle, x(bar.high), middle);
        for (const end of [bar.low, bar.high]) line(x(end), middle - 4, x(end), middle + 4);
      }
      svg.append(drawing("line", { x1: x(0), y1: top + 19, x2: x(0), y2: top + 35, class: "axis" }));
    });
  }
}

function shorten(node, text, width) {
  let length = text.length;
  while (length > 1 && node.getComputedTextLength() > width) {
    length = Math.max(1, Math.min(length - 1, Math.floor((length * width) / node.getComputedTextLength())));
    node.textContent = `${text.slice(0, length)}…`;
  }
  if (length < text.length) node.append(drawing("title", {}, text));
}

// ---- the beginning

async function begin() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    refresh();
  });
  byId("reset").addEventListener("click", undo);
  byId("next").addEventListener("click", next);
  byId("adding").addEventListener("submit", addItem);
  const suggestItems = later(() => suggest("items", byId("add"), byId("items")));
  byId("add").addEventListener("input", suggestItems);
  const suggestUsers = later(() => suggest("users", byId("user"), byId("users")));
  byId("user").addEventListener("input", () => {
    state.typed = {};
    state.history = null;
    state.ranks = new Map();
    suggestUsers();
    refreshLater();
  });
  let width = 0;
  new ResizeObserver(() => {
    if (byId("charts").clientWidth === width) return;
    width = byId("charts").clientWidth;
    requestAnimationFrame(draw);
  }).observe(byId("charts"));
  try {
    state.about = await ask("about");
    makeForm();
    if (state.about.ranks) {
      const users = await ask("suggest", { of: "users", text: "" });
      if (users.length) byId("user").value = users[0];
      await suggest("users", byId("user"), byId("users"));
    } else if (state.about.examples.length) fill(state.about.examples[0]);
    await refresh();
  } catch (error) {
    byId("problem").textContent = error.message;
  }
}

begin();
