/* The plots of a report: axes, panels with tooltips and keys, and each kind of plot. */

const DRAWN = 2000, STOPPED = 0.13, LOST = 0.035, SPREADS = [0.7548776662, 0.5698402910];

/* Axes: `share` maps a value to [0, 1]. */

const ticksOf = (low, high, log, whole, most) => {
  if (log) {
    const found = [], powers = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const some = powers[1] - powers[0] > 3 ? [1] : [1, 2, 5];
    for (let p = powers[0]; p <= powers[1]; p++) {
      for (const m of some) found.push(Number(`${m}e${p}`));
    }
    const inside = found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
    if (inside.length > 1) {
      return inside.filter((_, i) => i % Math.ceil(inside.length / most) === 0);
    }
  }
  const raw = (high / 2 - low / 2) / most * 2, power = 10 ** Math.floor(Math.log10(raw));
  const found = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const step = whole ? Math.max(1, Math.round(found)) : found;
  if (!(step > 0) || !Number.isFinite(step)) return [low];
  const first = Math.ceil(low / step - 1e-9), ticks = [];
  for (let i = 0; i < 12; i++) {
    const tick = Number(((first + i) * step).toPrecision(12));
    if (tick <= high + step * 1e-9) ticks.push(tick);
  }
  return ticks;
};
const axis = (low, high, {log = false, whole = false, margins = [0.04, 0.04], most = 5} = {}) => {
  const f = log ? Math.log : (v) => v, [a, b] = [f(low) / 2, f(high) / 2];
  const inner = 1 - margins[0] - margins[1];
  const share = (v) => margins[0] + inner * (b > a ? (f(v) / 2 - a) / (b - a) : 0.5);
  return {share, ticks: ticksOf(low, high, log, whole, most).map((v) => [v, number(v, 6)])};
};
const spread = (t, which) => (SPREADS[which] * (T.number[t] + 1)) % 1 - 0.5;
const isFew = (p) => p.whole && !p.log && p.high - p.low <= 16;
const axisOf = (p, most) => {
  if (p.options) {
    const last = p.options.length - 1, skip = Math.ceil(p.options.length / (2 * most));
    const ticks = p.options.map((o, i) => [i, cut(number(o), 10)]).filter((_, i) => i % skip === 0);
    return {...axis(-0.5, last + 0.5, {margins: [0, 0]}), ticks};
  }
  const room = isFew(p) ? 0.5 / (p.high - p.low + 1) : 0.04;
  return axis(p.low, p.high, {log: p.log, whole: p.whole, margins: [room, room], most});
};
const positionOf = (p, t, which) => {
  const value = p.raw(t);
  if (value === null) return null;
  return value + (p.options ? 0.5 : isFew(p) ? 0.4 : 0) * spread(t, which);
};

/* Panels. */

let panels = [];
const panel = (host, {width, height, x, y, title, name, xTitle = "", yTitle = "", least = 3}) => {
  const left = 12 + 6.2 * Math.max(least, ...y.ticks.map(([, text]) => text.length)) + (yTitle ? 14 : 0);
  const box = {left, top: title ? 24 : 8, right: width - 10, bottom: height - (xTitle ? 38 : 22)};
  const svg = make(host, "svg", {viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
    "aria-label": `${name}. Arrow keys go through the trials, the best first.`});
  const X = (v) => box.left + (box.right - box.left) * x.share(v);
  const Y = (v) => box.bottom - (box.bottom - box.top) * y.share(v);
  if (title) make(svg, "text", {x: box.left, y: 14, class: "title"}, title);
  let grid = "";
  for (const [v, text] of x.ticks) {
    grid += `M${place(X(v))} ${box.top}V${box.bottom}`;
    make(svg, "text", {x: X(v), y: box.bottom + 14, class: "tick middle"}, text);
  }
  for (const [v, text] of y.ticks) {
    grid += `M${place(box.left)} ${place(Y(v))}H${box.right}`;
    make(svg, "text", {x: box.left - 5, y: Y(v) + 3.5, class: "tick end"}, text);
  }
  make(svg, "path", {d: grid, class: "lattice"});
  const middle = (box.left + box.right) / 2, center = (box.top + box.bottom) / 2;
  if (xTitle) make(svg, "text", {x: middle, y: height - 6, class: "tick middle"}, xTitle);
  if (yTitle) make(svg, "text", {x: 11, y: center, class: "tick middle",
    transform: `rotate(-90 11 ${place(center)})`}, yTitle);
  return listen({svg, X, Y, box, width, items: []});
};
const widest = D.strips.stopped ? 7 : 4;
const clamped = (v) => Math.min(Math.max(v, D.scale.low), D.scale.high);
const scoreAxis = (most) => {
  const room = D.strips.stopped ? 0.3 : D.strips.lost ? 0.14 : 0.06;
  const margins = D.maximize ? [room, 0.06] : [0.06, room];
  return axis(D.scale.low, D.scale.high, {log: D.scale.log, margins, most});
};
const levelOf = (t) => {
  const f = D.scale.log ? Math.log : (v) => v, [low, high] = [f(D.scale.low), f(D.scale.high)];
  const share = high > low ? (f(clamped(T.score[t])) - low) / (high - low) : 0.5;
  return Math.min(6, Math.floor(7 * (D.maximize ? share : 1 - share)));
};
const chosen = () => {
  const ranked = every.filter((t) => passes[t]);
  if (ranked.length <= DRAWN) return ranked;
  const rest = ranked.slice(DRAWN / 2), step = rest.length / (DRAWN / 2);
  return [...ranked.slice(0, DRAWN / 2), ...every.slice(0, DRAWN / 2).map((i) => rest[Math.floor(i * step)])];
};
const pale = () => filters.size ? every.filter((t) => !passes[t]).slice(0, DRAWN) : [];
/* Dots of equal looks are one path: `look` returns the class of a trial. */
const scatter = (p, where, look, size) => {
  const paths = new Map(), add = (key, mark) => paths.set(key, (paths.get(key) || "") + mark);
  const visit = (t, out) => {
    const at = where(t);
    if (!at || !at.every(Number.isFinite)) return;
    const [x, y] = at.map(place);
    if (!out) p.items.push({t, x: at[0], y: at[1]});
    if (T.kind[t] === 2) add(out ? "cross out" : "cross", `M${x} ${y}m-3-3l6 6m0-6l-6 6`);
    else add(out ? "dot out" : `dot ${look(t)}`, `M${x} ${y}h0`);
  };
  pale().forEach((t) => visit(t, true));
  [...chosen()].reverse().forEach((t) => visit(t, false));
  for (const [kind, d] of paths) {
    const width = kind.startsWith("cross") ? 1 : kind.includes("less") ? 0.6 * size : size;
    make(p.svg, "path", {d, class: kind, "stroke-width": width});
  }
  const best = p.items.find((item) => item.t === 0 && T.rank[0] === 1);
  if (best) make(p.svg, "circle", {cx: best.x, cy: best.y, r: 5.5, class: "ring"});
  p.items.reverse();
};
const diameter = () => every.length > 300 ? 3.6 : every.length > 60 ? 4.8 : 6.4;
const scored = (p, across) => {
  const height = (share) => p.box.bottom - (p.box.bottom - p.box.top) * (D.maximize ? share : 1 - share);
  scatter(p, (t) => {
    const x = across(t);
    if (x === null || T.kind[t] === 3) return null;
    const y = T.kind[t] === 0 ? p.Y(clamped(T.score[t]))
      : height(T.kind[t] === 1 ? STOPPED + 0.05 * spread(t, 1) : LOST);
    return [p.X(x), y];
  }, (t) => T.kind[t] === 1 ? "less" : "", diameter());
  const style = {x: p.box.left - 5, class: "tick end"};
  if (D.strips.stopped) make(p.svg, "text", {...style, y: height(STOPPED) + 3}, "stopped");
  if (D.strips.lost) make(p.svg, "text", {...style, y: height(LOST) + 3, class: "tick end lost"}, "lost");
};
const rows = (id, least, most, ratio, each) => {
  const host = byId(id);
  if (!host) return;
  host.replaceChildren();
  const space = host.clientWidth;
  if (!space) return;
  const across = Math.max(1, Math.min(most, Math.floor(space / least)));
  host.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
  const width = (space - 12 * (across - 1)) / across;
  each(host, {width, height: Math.max(150, Math.min(330, ratio * width))});
};

/* Tooltips, the marked trial, and the keys of a panel. */

const tip = make(document.body, "div", {id: "tip", role: "tooltip", hidden: ""});
const live = make(document.body, "div", {class: "unseen", "aria-live": "polite"});
const about = (t) => [
  `trial ${T.number[t]}, ${D.statuses[T.status[t]]}`,
  ...(T.score[t] === null ? [] : [`${D.metric} ${number(T.score[t])} after ${T.epochs[t]} epochs`]),
  ...(T.rank[t] === null ? [] : [`rank ${T.rank[t]}`]),
  ...parameters.filter((p) => p.raw(t) !== null).map((p) => `${p.short} = ${number(p.get(t))}`),
];
const mark = (t) => {
  for (const p of panels) {
    p.svg.querySelectorAll(".focus").forEach((one) => one.remove());
    if (t === null) continue;
    if (p.mark) p.mark(t);
    else for (const {x, y} of p.items.filter((one) => one.t === t)) {
      make(p.svg, "circle", {cx: x, cy: y, r: 6, class: "focus"});
    }
  }
  document.querySelectorAll("tr.marked").forEach((row) => row.classList.remove("marked"));
  const row = t !== null && document.querySelector(`#every tr[data-trial="${t}"]`);
  if (row) row.classList.add("marked");
};
const show = (p, item, speak) => {
  const text = [...(item.note ? [item.note] : []), ...(item.t === null ? [] : about(item.t))];
  tip.replaceChildren(...text.map((line, i) => make(null, i ? "div" : "b", {}, line)));
  tip.hidden = false;
  const frame = p.svg.getBoundingClientRect(), scale = frame.width / p.width;
  const [x, y] = [frame.left + item.x * scale, frame.top + item.y * scale];
  const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
  tip.style.left = `${Math.max(4, x + 14 + wide > innerWidth ? x - 14 - wide : x + 14)}px`;
  tip.style.top = `${Math.max(4, Math.min(y - high / 2, innerHeight - high - 4))}px`;
  if (speak) live.textContent = text.join(". ");
  mark(item.t);
};
const hide = () => { tip.hidden = true; mark(pinned); };
const nearest = (p, x, y) => {
  let found = null, least = 18 ** 2;
  for (const item of p.items) {
    const away = (item.x - x) ** 2 + (item.y - y) ** 2;
    if (away < least) [found, least] = [item, away];
  }
  return found;
};
const listen = (p) => {
  panels.push(p);
  const under = (event) => {
    const frame = p.svg.getBoundingClientRect(), scale = p.width / frame.width;
    return (p.hit || nearest)(p, (event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale);
  };
  const point = (event) => {
    const item = brushing ? null : under(event);
    if (item) show(p, item, false); else hide();
  };
  p.svg.addEventListener("pointermove", point);
  p.svg.addEventListener("pointerleave", hide);
  p.svg.addEventListener("click", (event) => {
    const item = under(event);
    pinned = item && item.t !== pinned ? item.t : null;
    mark(pinned);
  });
  let at = -1;
  p.svg.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") { pinned = null; hide(); }
    if (!step || !p.items.length) return;
    event.preventDefault();
    at = (at + step + p.items.length) % p.items.length;
    show(p, p.items[at], true);
  });
  p.svg.addEventListener("blur", () => { at = -1; hide(); });
  return p;
};

/* The plots. */

const steps = (p, points, end) => {
  const d = points.map(([x, y], i) => i ? `H${place(p.X(x))}V${place(p.Y(y))}`
    : `M${place(p.X(x))} ${place(p.Y(y))}`).join("");
  if (d) make(p.svg, "path", {d: `${d}H${place(p.X(end))}`, class: "best line"});
};
const progress = () => rows("plot-progress", 320, 2, 0.62, (host, size) => {
  const y = scoreAxis(5);
  const left = panel(host, {...size, least: widest, x: axis(0, D.asked, {whole: true, margins: [0, 0.02]}), y,
    name: "Score by trial", title: `${D.metric} (${D.maximize ? "more" : "less"} is better)`,
    xTitle: "trials, in the order in which they were asked"});
  scored(left, (t) => T.number[t] + 1);
  steps(left, D.records.map(([t, v]) => [T.number[t] + 1, clamped(v)]), D.asked);
  if (!D.known.length) return;
  const [unit, one] = D.known[D.known.length - 1][0] < 180 ? ["seconds", 1]
    : D.known[D.known.length - 1][0] < 10800 ? ["minutes", 60] : ["hours", 3600];
  const values = D.known.map((k) => k[1]), end = D.known[D.known.length - 1][0] / one;
  const log = D.scale.log && Math.min(...values) > 0;
  const right = panel(host, {...size, x: axis(0, end, {margins: [0, 0.02]}), name: "Best by time",
    y: axis(Math.min(...values), Math.max(...values), {log, margins: [0.06, 0.06]}),
    title: `best ${D.metric} known`, xTitle: `${unit} of computing, including compiling`});
  steps(right, D.known.map(([s, v]) => [s / one, v]), end);
  right.items = D.known.map(([s, v, t]) => ({t, x: right.X(s / one), y: right.Y(v),
    note: `after ${duration(s)}: ${number(v)}`}));
});
const curves = () => rows("plot-curves", 300, 3, 0.75, (host, size) => {
  for (const c of D.curves) {
    const all = [...c.bands.flat(), ...c.lines.flatMap((line) => line.values)].filter((v) => v !== null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const ends = [c.epochs[0], c.epochs[c.epochs.length - 1]];
    const p = panel(host, {...size, title: c.name, name: `${c.name} by epoch`, xTitle: "epoch",
      x: axis(...(ends[0] < ends[1] ? ends : [ends[0] - 1, ends[0] + 1]), {whole: true}),
      y: axis(low, high, {log: c.log && low > 0 && high > 10 * low})});
    const path = (xs, ys) => xs.map((x, i) => ys[i] === null ? "" : `${i ? "L" : "M"}${place(p.X(x))} ${place(p.Y(ys[i]))}`).join("");
    const line = (values, kind) => make(p.svg, "path", {d: path(c.epochs, values), class: kind});
    for (const [a, b, kind] of [[0, 4, "outer"], [1, 3, "inner"]]) {
      const back = path([...c.epochs].reverse(), c.bands.map((q) => q[b]).reverse());
      make(p.svg, "path", {d: `${path(c.epochs, c.bands.map((q) => q[a]))}${back.replace("M", "L")}Z`, class: `band ${kind}`});
    }
    line(c.bands.map((q) => q[2]), "median line");
    const lines = c.lines.map((one) => ({...one, start: path(c.epochs, one.values).replace(/^L/, "M")}));
    for (const one of [...lines].reverse()) {
      make(p.svg, "path", {d: one.start, class: one.t === 0 ? "best line" : passes[one.t] ? "some line" : "out line"});
    }
    for (const r of D.rungs) make(p.svg, "path", {d: `M${place(p.X(r))} ${p.box.top}V${p.box.bottom}`, class: "rung"});
    p.items = lines.flatMap((one) => one.values.map((v, i) => v === null ? null : {t: one.t, x: p.X(c.epochs[i]),
      y: p.Y(v), note: `epoch ${c.epochs[i]}, seed ${one.seed}: ${number(v)}`})).filter(Boolean);
    p.mark = (t) => lines.filter((one) => one.t === t).forEach((one) => make(p.svg, "path", {d: one.start, class: "focus"}));
  }
});
const slices = () => rows("plot-slices", 300, 3, 0.72, (host, size) => {
  for (const p of parameters) {
    const one = panel(host, {...size, least: widest, x: axisOf(p, 5), y: scoreAxis(5), name: `Score by ${p.name}`,
      title: p.short + (p.edge ? `: best at the ${p.edge} edge` : p.log ? " (log)" : "")});
    scored(one, (t) => positionOf(p, t, 0));
    if (p.edge) one.svg.querySelector(".title").classList.add("edge");
  }
});
const pairs = () => rows("plot-pairs", 165, 5, 0.95, (host, size) => {
  const some = D.paired.map((i) => parameters[i]);
  some.forEach((b, j) => some.slice(0, j).forEach((a) => {
    const p = panel(host, {...size, x: axisOf(a, 3), y: axisOf(b, 3), xTitle: cut(a.short, 26),
      yTitle: cut(b.short, 24), title: "", name: `Trials by ${a.name} and ${b.name}`});
    scatter(p, (t) => {
      const [u, v] = [positionOf(a, t, 0), positionOf(b, t, 1)];
      return u === null || v === null || T.kind[t] === 3 ? null : [p.X(u), p.Y(v)];
    }, (t) => T.kind[t] === 0 ? `level${levelOf(t)}` : "less", 0.85 * diameter());
    if (!p.items.length && !filters.size) make(p.svg, "text", {x: (p.box.left + p.box.right) / 2,
      y: (p.box.top + p.box.bottom) / 2, class: "tick middle"}, "never together");
  }));
});
let brushing = null;
const parallel = () => rows("plot-parallel", 9999, 1, 0.4, (host, {width}) => {
  const lines = [...parameters, score], turned = width / lines.length < 92, many = lines.length;
  const top = turned ? 34 : 52, length = turned ? width - 60 : 240, gap = turned ? 56 : (width - 90) / (many - 1);
  const height = turned ? top + gap * (many - 1) + 34 : top + length + 44;
  const from = turned ? 48 : top + length, sign = turned ? 1 : -1;
  const across = (i) => (turned ? top : 45) + i * gap, along = (share) => from + sign * share * length;
  const at = (i, share) => turned ? [along(share), across(i)] : [across(i), along(share)];
  const svg = make(host, "svg", {viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
    "aria-label": "Parallel coordinates. Arrow keys go through the trials, the best first; the filters of the table select."});
  const axes = lines.map((p) => p.isScore ? axis(D.scale.low, D.scale.high, {log: D.scale.log, margins: [0, 0]}) : axisOf(p, 4));
  const share = (i, t) => {
    const p = lines[i], value = p.isScore ? T.kind[t] === 0 ? clamped(p.raw(t)) : null : positionOf(p, t, 0);
    return value === null ? -0.13 : axes[i].share(value);
  };
  const way = (t) => lines.map((_, i) => at(i, share(i, t)));
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${place(x)} ${place(y)}`).join("");
  const p = listen({svg, width, items: [], box: {}});
  const drawn = chosen().filter((t) => T.kind[t] < 3), ways = new Map(drawn.map((t) => [t, way(t)]));
  make(svg, "path", {d: pale().filter((t) => T.kind[t] < 3).map((t) => path(way(t))).join(""), class: "line out"});
  const layers = new Map();
  for (const t of [...drawn].reverse()) {
    const kind = T.kind[t] === 0 ? `line level${levelOf(t)}` : T.kind[t] === 1 ? "line less" : "line lost";
    layers.set(kind, (layers.get(kind) || "") + path(ways.get(t)));
  }
  const thin = drawn.length > 300 ? 0.7 : 1.2;
  for (const [kind, d] of layers) make(svg, "path", {d, class: kind, "stroke-width": thin});
  if (drawn.length && T.rank[0] === 1 && passes[0]) make(svg, "path", {d: path(ways.get(0)), class: "best line"});
  p.items = drawn.map((t) => ({t, x: ways.get(t)[0][0], y: ways.get(t)[0][1]}));
  p.mark = (t) => make(svg, "path", {d: path(ways.get(t) || way(t)), class: "focus"});
  p.hit = (_, x, y) => {
    const [u, v] = turned ? [y, x] : [x, y], i = Math.min(Math.max(Math.floor((u - across(0)) / gap), 0), many - 2);
    const rest = (u - across(i)) / gap;
    let found = null, least = 9;
    for (const t of drawn) {
      const [a, b] = [along(share(i, t)), along(share(i + 1, t))], away = Math.abs(a + rest * (b - a) - v);
      if (away < least) [found, least] = [t, away];
    }
    return found === null ? null : {t: found, x, y};
  };
  lines.forEach((line, i) => {
    const [x0, y0] = at(i, 0), [x1, y1] = at(i, 1);
    make(svg, "path", {d: `M${place(x0)} ${place(y0)}L${place(x1)} ${place(y1)}`, class: "axis"});
    const title = cut(line.short, turned ? 60 : Math.max(8, Math.floor(gap / 6.4)));
    if (turned) make(svg, "text", {x: 48, y: y0 - 9, class: "title halo"}, title);
    else make(svg, "text", {x: x1 + (i === many - 1 ? 40 : 0), y: top - 20 - (many > 6 && i % 2) * 16, class: `title ${i === many - 1 ? "end" : "middle"}`}, title);
    for (const [v, text] of axes[i].ticks) {
      const [x, y] = at(i, axes[i].share(v));
      make(svg, "text", turned ? {x, y: y + 13, class: "tick middle halo"} : {x: x + 4, y: y + 3.5, class: "tick halo"}, cut(text, 9));
    }
    const text = filters.get(line);
    if (text) {
      const values = axes[i].ticks.map(([v]) => v), test = predicate(line, text);
      const range = line.options ? line.options.map((o, k) => test(o) ? k : null).filter((k) => k !== null) : bounds(text);
      if (range && range.length) {
        const half = line.options ? 0.5 : 0, ends = [Math.min(...range) - half, Math.max(...range) + half];
        const [low, high] = ends.map((v) => Math.min(Math.max(axes[i].share(v) || 0, 0), 1));
        const [a, b] = [at(i, low), at(i, high)];
        make(svg, "rect", {x: Math.min(a[0], b[0]) - (turned ? 0 : 8), y: Math.min(a[1], b[1]) - (turned ? 8 : 0),
          width: turned ? Math.abs(a[0] - b[0]) : 16, height: turned ? 16 : Math.abs(a[1] - b[1]), class: "brush"});
      }
      if (!values.length) return;
    }
    const grip = make(svg, "rect", {class: `grip${turned ? " turned" : ""}`, "data-axis": line.name,
      x: turned ? from : across(i) - 13, y: turned ? across(i) - 13 : top,
      width: turned ? length : 26, height: turned ? 26 : length});
    grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const under = (e) => {
        const frame = byId("plot-parallel").firstChild.getBoundingClientRect(), scale = width / frame.width;
        const v = turned ? (e.clientX - frame.left) * scale : (e.clientY - frame.top) * scale;
        return Math.min(Math.max((v - from) / (sign * length), 0), 1);
      };
      brushing = {line, start: under(event)};
      const move = (e) => brush(brushing.start, under(e), line, axes[i], length);
      const stop = (e) => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", stop);
        if (Math.abs(under(e) - brushing.start) * length < 4) setFilter(line, "");
        brushing = null;
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", stop);
    });
  });
});
const brush = (a, b, line, itsAxis, length) => {
  if (Math.abs(a - b) * length < 4) return;
  const [low, high] = [Math.min(a, b), Math.max(a, b)];
  if (line.options) {
    const some = line.options.filter((_, i) => itsAxis.share(i) >= low && itsAxis.share(i) <= high);
    const numbers = some.length && !isText(line);
    return setFilter(line, numbers ? `${Math.min(...some)}..${Math.max(...some)}` : some.length === 1
      ? `=${number(some[0])}` : some.map((o) => number(o)).join("|"));
  }
  const room = itsAxis.share(line.low), inner = itsAxis.share(line.high) - room;
  const f = line.log ? Math.log : (v) => v, back = line.log ? Math.exp : (v) => v;
  const value = (share) => back(f(line.low) + (share - room) / inner * (f(line.high) - f(line.low)));
  const [from, to] = [value(low), value(high)];
  setFilter(line, line.whole ? `${Math.ceil(from)}..${Math.floor(to)}` : `${number(from, 4)}..${number(to, 4)}`);
};
const timeline = () => rows("plot-timeline", 9999, 1, 0.3, (host, {width}) => {
  const end = D.timeline.end, high = 30, height = 34 + high * D.timeline.rows;
  const x = axis(0, end, {margins: [0, 0.01], most: width > 600 ? 8 : 4});
  x.ticks = x.ticks.map(([v]) => [v, v ? duration(v) : "0"]);
  const p = panel(host, {width, height, x, y: {share: (v) => 1 - v, ticks: []}, title: "",
    name: "Timeline of lanes and compilation"});
  const colors = ["level4", "level6", "level3", "level5"];
  for (const [row, start, seconds, compile, group, note, lanes] of D.timeline.bars) {
    const [a, b, c] = [start, start + compile, start + seconds].map(p.X), y = p.box.top + row * high + 3;
    if (b > a) make(p.svg, "rect", {x: a, y, width: Math.max(b - a, 0.8), height: high - 6, class: "compiling"});
    if (c > b) make(p.svg, "rect", {x: b, y, width: Math.max(c - b, 0.8), height: high - 6, class: `lanes ${colors[group % 4]}`});
    if (c - b > 7 * String(lanes).length + 4) make(p.svg, "text", {x: (b + c) / 2, y: y + 16, class: "inbar middle"}, lanes);
    p.items.push({t: null, x: (a + c) / 2, y: y + high / 2 - 3, note, ends: [a, c, y]});
  }
  for (const v of D.timeline.gaps) make(p.svg, "path", {d: `M${place(p.X(v))} ${p.box.top}V${p.box.bottom}`, class: "rung"});
  p.hit = (_, px, py) => p.items.find(({ends: [a, c, y]}) => px >= a - 1 && px <= c + 1 && py >= y && py <= y + high) || null;
});

/* Drawing again when the selection or the width changes. */

let waiting = false;
const body = heading();
const render = () => {
  waiting = false;
  refilter();
  panels = [];
  hide();
  for (const plot of [progress, curves, slices, pairs, parallel]) if (every.some((t) => T.kind[t] === 0)) plot();
  if (D.timeline.bars.length) timeline();
  fill(body);
  mark(pinned);
};
const schedule = () => { if (!waiting) { waiting = true; requestAnimationFrame(render); } };
byId("more").addEventListener("click", () => { limit += 10 * ROWS; fill(body); });
byId("clear").addEventListener("click", () => { for (const column of [...filters.keys()]) setFilter(column, ""); });
let width = null;
new ResizeObserver(([{contentRect}]) => {
  if (width !== null && contentRect.width !== width) schedule();
  width = contentRect.width;
}).observe(document.querySelector("main"));
addEventListener("scroll", () => { if (!tip.hidden) hide(); }, {passive: true});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
render();
