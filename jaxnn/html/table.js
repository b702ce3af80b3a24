"use strict";
/* The table of a report, and the selection that links it with the plots of `plots.js`.

A filter of a column is text, `0.001..0.01`, `>=3`, `relu|gelu`, or part of what the cell shows.
Brushing an axis of the parallel coordinates writes such a text into the filter of its column, so
whatever a brush selects can be selected by keyboard too. Trials that do not pass are pale in every
plot and absent from the table. Trials are indices into the lists of `D.trials`. */
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.trials, every = T.number.map((_, t) => t);
const ROWS = 50;
const byId = (id) => document.getElementById(id);
const template = document.createElement("template");
template.innerHTML = "<svg></svg>";
const SVG = template.content.firstChild.namespaceURI;

/* Elements, numbers, and text. */

const make = (parent, tag, attributes = {}, text = "") => {
  const inside = parent && parent.namespaceURI === SVG || tag === "svg";
  const element = inside ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== "") element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const number = (value, digits = 4) => {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  if (exponent > -5 && exponent < 6) return String(Number(value.toPrecision(digits)));
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  return `${Number(mantissa)}e${Number(power)}`;
};
const duration = (s) => s < 1 ? `${Math.round(1000 * s)} ms` : s < 60 ? `${s.toFixed(1)} s`
  : s < 3600 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s` : `${(s / 3600).toFixed(1)} h`;
const cut = (text, most) => text.length > most ? text.slice(0, most - 1) + "\u2026" : text;
const place = (v) => v.toFixed(1);

/* Columns of the table, which are also the axes of the parallel coordinates. */

const plain = (name, list, more = {}) => ({name, short: name, get: (t) => list[t], ...more});
const parameters = D.parameters.map((p, i) => ({
  ...p, get: (t) => p.options && T.values[i][t] !== null ? p.options[T.values[i][t]]
    : T.values[i][t],
  raw: (t) => T.values[i][t],
}));
const score = plain(D.metric, T.score, {...D.scale, isScore: true});
score.raw = score.get;
const columns = [
  plain("trial", T.number), plain("rank", T.rank), score,
  plain("status", T.status.map((s) => D.statuses[s]), {isText: true}), plain("epochs", T.epochs),
  ...parameters,
];
const isText = (column) => column.isText
  || column.options && !column.options.every((o) => typeof o === "number");

/* Filters. */

const filters = new Map();
const bounds = (text) => {
  const found = /^\s*(\S+)\s*\.\.\s*(\S+)\s*$/.exec(text);
  const ends = found && [Number(found[1]), Number(found[2])];
  return ends && ends.every((end) => !Number.isNaN(end)) ? ends : null;
};
const predicate = (column, text) => {
  const range = isText(column) ? null : bounds(text);
  if (range) return (v) => typeof v === "number" && v >= range[0] && v <= range[1];
  const compare = /^\s*(<=|>=|<|>|=)\s*(.+?)\s*$/.exec(text);
  const limit = compare ? Number(compare[2]) : NaN;
  if (compare && compare[1] === "=" && Number.isNaN(limit)) {
    return (v) => number(v).toLowerCase() === compare[2].toLowerCase();
  }
  if (!Number.isNaN(limit)) {
    const test = {"<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit,
      ">=": (v) => v >= limit, "=": (v) => v === limit}[compare[1]];
    return (v) => typeof v === "number" && test(v);
  }
  const words = text.toLowerCase().split("|").map((word) => word.trim()).filter(Boolean);
  if (words.length > 1) return (v) => words.includes(number(v).toLowerCase());
  return (v) => !words.length || number(v).toLowerCase().includes(words[0]);
};
let passes = every.map(() => true), pinned = null, order = {column: columns[1], down: false};
const refilter = () => {
  const tests = [...filters].map(([column, text]) => [column, predicate(column, text)]);
  passes = every.map((t) => tests.every(([column, test]) => test(column.get(t))));
  const many = passes.filter(Boolean).length, shown = byId("selection");
  shown.hidden = !filters.size;
  shown.firstChild.textContent = `${many.toLocaleString("en")} of ${every.length.toLocaleString("en")} trials `;
};
const setFilter = (column, text) => {
  if (text.trim()) filters.set(column, text); else filters.delete(column);
  const input = column.input;
  if (input && input.value !== text) input.value = text;
  schedule();
};

/* The table. */

let limit = ROWS;
const heading = () => {
  const head = make(make(byId("every"), "thead"), "tr");
  const body = make(byId("every"), "tbody");
  for (const column of columns) {
    column.head = make(head, "th", {scope: "col"});
    const button = make(column.head, "button", {type: "button", title: column.name}, cut(column.short, 24));
    button.addEventListener("click", () => {
      order = {column, down: order.column === column ? !order.down : column === score && D.maximize};
      fill(body);
    });
    column.input = make(column.head, "input", {type: "search", "aria-label": `filter ${column.name}`,
      placeholder: isText(column) ? "text" : "0.1..0.5", size: 7});
    column.input.addEventListener("input", () => setFilter(column, column.input.value));
  }
  return body;
};
const fill = (body) => {
  const {column, down} = order, some = every.filter((t) => passes[t]), missing = (v) => v === null || v === undefined;
  some.sort((a, b) => {
    const [u, v] = [column.get(a), column.get(b)];
    if (missing(u) || missing(v)) return missing(u) - missing(v) || a - b;
    return (typeof u === typeof v ? u < v ? -1 : u > v ? 1 : 0 : typeof u < typeof v ? -1 : 1) * (down ? -1 : 1) || a - b;
  });
  for (const one of columns) one.head.setAttribute("aria-sort", one === column ? down ? "descending" : "ascending" : "none");
  body.replaceChildren(...some.slice(0, limit).map((t) => {
    const row = make(null, "tr", {"data-trial": t});
    columns.forEach((one, i) => {
      const cell = make(row, i ? "td" : "th", {class: isText(one) ? "" : "n", ...(i ? {} : {scope: "row"})}, number(one.get(t)));
      if (one === score && T.half[t] !== null) cell.textContent += ` \u00b1 ${number(T.half[t], 2)}`;
    });
    row.addEventListener("pointerenter", () => mark(t));
    row.addEventListener("pointerleave", () => mark(pinned));
    row.addEventListener("click", () => { pinned = t === pinned ? null : t; mark(pinned); });
    return row;
  }));
  const more = byId("more"), left = some.length - limit;
  more.hidden = left <= 0;
  more.textContent = `Show ${Math.min(left, 10 * ROWS)} more of ${some.length.toLocaleString("en")}`;
};
