"use strict";

// Draws status.json, twice a second. What comes from outside (names, reasons, commands) only ever
// becomes text: textContent and attributes, never markup.

const POLL_MS = 500;
const HIDDEN_POLL_MS = 5000;
const TIMEOUT_MS = 3000;
const WINDOW = 300; // seconds shown
const RATE_MS = 900; // what the live point of the request chart is measured over, at least
const CPU_MS = 5000;
const RECENT_MS = 60000; // how long counters are remembered, to say what is new
const COLOURS = 8;
const WEAVES = 4; // colours come back with another weave
const TIP_ROWS = 10;
const SERIES = ["leases", "requests", "errors", "p99_ms", "state"];

const past = { last: null, backends: [] }; // the history: a ring of WINDOW samples of each backend
let now = null; // the newest status
let recent = []; // counters of the last minute, oldest first
let answeredAt = null; // when lb last answered
let hover = null; // seconds ago that the pointer is at

// ---- Elements

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets text and tooltip, if they differ: what stays the same costs nothing. */
function put(element, text, title) {
  if (element.textContent !== text) element.textContent = text;
  if (title !== undefined) attribute(element, "title", title);
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function field(name, className = "") {
  return make("span", { "data-field": name, class: className });
}

const find = (root, name) => root.querySelector(`[data-field="${name}"]`);

const ICONS = {
  up: "M2.5 8.5l3.7 3.7L13.5 4.5",
  suspect: "M8 2l6.2 11.5H1.8zM8 6.5v3.2M8 11.6v.2",
  down: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  syncing: "M13.2 7A5.3 5.3 0 0 0 3.6 5M2.8 9a5.3 5.3 0 0 0 9.6 2M3.2 1.8V5.2h3.4M12.8 14.2v-3.4H9.4",
};

function icon(state) {
  const path = draw("path", { d: ICONS[state] ?? ICONS.suspect });
  return draw("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, path);
}

function badge(state) {
  const word = field("state");
  word.textContent = state;
  return make("span", { class: "badge", "data-state": state }, icon(state), word);
}

const colour = (index) => `c${index % COLOURS}`;
const weave = (index) => Math.floor(index / COLOURS) % WEAVES;

/** A shape in a backend's colour, and its weave on it where colours come back. */
function coloured(index, tag, attributes = {}) {
  const shapes = [draw(tag, { ...attributes, class: colour(index) })];
  if (weave(index) > 0) shapes.push(draw(tag, { ...attributes, fill: `url(#weave-${weave(index)})` }));
  return shapes;
}

function chip(index) {
  const square = coloured(index, "rect", { width: 12, height: 12, rx: 3 });
  return draw("svg", { viewBox: "0 0 12 12", class: "chip", "aria-hidden": "true" }, ...square);
}

// ---- Words and numbers

const exact = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

function compact(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10000) return exact(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
  const power = Math.min(4, Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** power;
  return `${scaled.toFixed(scaled < 100 ? 1 : 0)}${" kMGT"[power]}`;
}

function bytes(value) {
  if (value === null) return "–";
  const mib = value / 2 ** 20;
  return mib < 1024 ? `${mib.toFixed(mib < 10 ? 1 : 0)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value.toFixed(value < 1 ? 2 : value < 100 ? 1 : 0);
}

const cssShare = (part, whole) => `${Math.min(100, (100 * part) / whole).toFixed(2)}%`;
const percent = (share, digits = 0) => (share === null ? "–" : `${(share * 100).toFixed(digits)} %`);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");
const sum = (values) => values.reduce((total, value) => total + value, 0);
const answered = (requests) => requests.http + requests.resp;

// ---- Asking

async function ask() {
  const since = past.last === null ? "" : `?since=${past.last}`;
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch(`status.json${since}`, { signal, cache: "no-store" });
  if (!response.ok) throw new Error(`it says ${response.status}`);
  const status = await response.json();
  if (!isAnother(status)) return status;
  forget();
  return ask();
}

/** Whether lb has been started anew, so that its numbers have nothing to do with those before. */
function isAnother(status) {
  if (now === null) return false;
  const began = (of) => Date.parse(of.at) / 1000 - of.uptime_seconds;
  return status.uptime_seconds < now.uptime_seconds || Math.abs(began(status) - began(now)) > 5;
}

function forget() {
  Object.assign(past, { last: null, backends: [] });
  now = null;
  recent = [];
}

/** Adds the samples that are new; begins anew when some between are missing. */
function remember({ last, backends }) {
  if (last === null) return;
  const first = last - (backends[0]?.leases.length ?? 0) + 1;
  const follows = past.last !== null && first <= past.last + 1 && backends.length === past.backends.length;
  const known = follows ? past.last + 1 - first : 0;
  past.backends = backends.map((backend, index) => {
    const joined = (name) => (follows ? past.backends[index][name] : []).concat(backend[name].slice(known));
    return Object.fromEntries(SERIES.map((name) => [name, joined(name).slice(-WINDOW)]));
  });
  past.last = last;
}

function count(status) {
  const at = performance.now();
  const { refused, process, backends } = status;
  recent = recent.filter((entry) => at - entry.at < RECENT_MS);
  recent.push({ at, refused, cpu: process.cpu_seconds, requests: backends.map((b) => answered(b.requests)) });
}

/** The newest counters that are at least so old, or else the oldest there are; never the last. */
function before(age) {
  const newest = recent[recent.length - 1];
  const older = recent.filter((entry) => newest.at - entry.at >= age);
  return older[older.length - 1] ?? (recent.length > 1 ? recent[0] : null);
}

/** Requests a second of each backend, right now. */
function liveRates(status) {
  const older = before(RATE_MS);
  if (older === null) return status.backends.map((b) => b.requests.per_second);
  const newest = recent[recent.length - 1];
  const seconds = (newest.at - older.at) / 1000;
  return newest.requests.map((total, index) => Math.max(0, total - older.requests[index]) / seconds);
}

function cpuShare() {
  const older = before(CPU_MS);
  const newest = recent[recent.length - 1];
  if (older === null || older.cpu === null || newest.cpu === null) return null;
  return (newest.cpu - older.cpu) / ((newest.at - older.at) / 1000);
}

// ---- Header

function overall(status) {
  const up = status.backends.filter((b) => b.state === "up").length;
  const all = status.backends.length;
  const words = { leaving: "Leaving: new clients should go elsewhere", draining: "Draining: no new clients", closing: "Closing" };
  if (status.phase !== "serving") return { level: "suspect", text: words[status.phase] ?? status.phase, brief: status.phase };
  const brief = `${up}/${all} up`;
  if (up === all) return { level: "up", text: all === 1 ? "The backend is up" : `${all} of ${all} backends up`, brief };
  if (up > 0) return { level: "suspect", text: `${up} of ${all} backends up`, brief };
  const some = status.backends.some((b) => b.state === "suspect");
  return { level: "down", text: some ? "No backend is up: reads go to suspects" : "All reads fail: no backend is up", brief };
}

function showOverall({ level, text, brief }) {
  const heading = byId("overall");
  if (heading.dataset.state !== level) {
    heading.dataset.state = level;
    heading.querySelector(".icon").replaceWith(icon(level));
    showFavicon(level);
  }
  put(find(heading, "overall"), text);
  const mark = { up: "", suspect: "⚠ ", down: "✕ " }[level];
  const title = `${mark}${brief} – redis-lb`;
  if (document.title !== title) document.title = title;
}

function showFavicon(level) {
  const fills = { up: "#00875f", suspect: "#b87400", down: "#c22f1e" };
  const square = `<rect width="16" height="16" rx="4" fill="${fills[level]}"/>`;
  const stroke = `<path d="${ICONS[level]}" fill="none" stroke="#fff" stroke-width="2" transform="translate(1.6 1.6) scale(.8)"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${square}${stroke}</svg>`;
  byId("favicon").href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

function showHeader(status) {
  const header = document.querySelector(".top");
  put(find(header, "version"), status.version);
  put(find(header, "listen"), status.listen, status.listen);
  put(find(header, "uptime"), duration(status.uptime_seconds));
  showOverall(overall(status));
}

// ---- Tiles

function showTile(name, text, note, title = "") {
  const value = find(byId("tiles"), name);
  put(value, text, title);
  put(value.nextElementSibling, note, note);
}

function showTiles(status) {
  const { clients, requests, refused, process } = status;
  const all = answered(requests);
  const connected = clients.http + clients.resp + clients.new;
  showTile("requests_per_second", compact(requests.per_second), all === 0 ? "nothing asked yet" : `${compact(all)} in all`, exact(requests.per_second));
  const kinds = `${compact(clients.http)} http · ${compact(clients.resp)} redis · ${compact(clients.new)} new`;
  showTile("clients", compact(connected), kinds, `${exact(connected)} of ${exact(clients.max)}`);
  document.querySelector(".meter i").style.width = cssShare(connected, clients.max);
  showRefusals("refused_writes", "writes", "READONLY");
  showRefusals("bad_requests", "bad_requests", "malformed");
  showRefusals("unanswered", "unanswered", "no backend left");
  showTile("threads", exact(process.threads), "one per client");
  showTile("memory", bytes(process.resident_bytes), "resident", exact(process.resident_bytes));
  showTile("cpu", percent(cpuShare()), "of one core");
  const sums = past.backends[0]?.requests.map((_, k) => sum(past.backends.map((b) => b.requests[k]))) ?? [];
  drawSpark(byId("total").firstChild, sums, Math.max(1, ...sums), []);
}

/** A count of refusals, which stands out for a minute after it rose. */
function showRefusals(tile, name, note) {
  const total = now.refused[name];
  const fresh = total - recent[0].refused[name];
  showTile(tile, compact(total), fresh > 0 ? `+${compact(fresh)} this minute` : note, exact(total));
  find(byId("tiles"), tile).parentElement.classList.toggle("fresh", fresh > 0);
}

// ---- Small curves

function spark(kind, index = null) {
  const paths = [draw("g", { class: "spans" }), draw("path", { class: "area" }), draw("path", { class: "line" })];
  const className = index === null ? "spark" : `spark ${colour(index)}`;
  const box = { viewBox: `0 0 ${WINDOW} 24`, preserveAspectRatio: "none", class: className, "aria-hidden": "true" };
  return draw("svg", { ...box, "data-spark": kind }, ...paths);
}

/** Draws values, newest at the right, with gaps where they are null, and the spans of `states` behind. */
function drawSpark(svg, values, top, states) {
  const offset = WINDOW - values.length;
  const pieces = [];
  values.forEach((value, k) => {
    if (value === null) return;
    const point = `${offset + k} ${(23 - (value / top) * 21).toFixed(1)}`;
    if (k > 0 && values[k - 1] !== null) pieces[pieces.length - 1].points.push(point);
    else pieces.push({ from: offset + k, points: [point] });
  });
  const line = pieces.map((piece) => `M${piece.points.join("L")}${piece.points.length > 1 ? "" : "h1"}`);
  const area = pieces.map((p) => `M${p.from} 24L${p.points.join("L")}V24Z`);
  svg.querySelector(".line").setAttribute("d", line.join(""));
  svg.querySelector(".area").setAttribute("d", area.join(""));
  drawSpans(svg.querySelector(".spans"), states, 24);
}

/** One rectangle for each time that a backend was not up. */
function drawSpans(group, states, height) {
  const offset = WINDOW - states.length;
  const spans = [];
  states.forEach((state, k) => {
    if (state !== states[k - 1]) spans.push({ state, from: k, to: k });
    spans[spans.length - 1].to = k + 1;
  });
  const shown = spans.filter((span) => span.state !== "up" || group.dataset.all);
  group.replaceChildren(...shown.map((span) => draw("rect", {
    x: offset + span.from, width: span.to - span.from, height, class: `span ${span.state}`,
  })));
}

// ---- The two charts

const LEFT = 40;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 30;

class Chart {
  constructor(host, name, what) {
    Object.assign(this, { host, name, what, width: 0, height: 0, layers: [] });
    this.svg = draw("svg", { role: "img", "data-field": `${name}-chart` });
    this.tip = make("div", { class: "tip", hidden: "" });
    host.append(this.svg, this.tip);
    host.addEventListener("pointermove", (event) => this.point(event));
    host.addEventListener("pointerleave", () => { hover = null; drawCharts(); });
    new ResizeObserver(([entry]) => this.resize(entry.contentRect)).observe(host);
  }

  resize({ width, height }) {
    Object.assign(this, { width, height });
    this.build();
    drawCharts();
  }

  build() {
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.layers = past.backends.map((_, index) => coloured(index, "path"));
    const layers = draw("g", { class: this.layers.length > COLOURS ? "layers many" : "layers" }, ...this.layers.flat());
    this.grid = draw("g", { class: "grid" });
    this.marks = draw("g", { class: "marks" });
    this.cross = draw("path", { class: "cross" });
    this.empty = draw("text", { class: "empty", x: this.width / 2, y: this.height / 2, "text-anchor": "middle" });
    this.svg.replaceChildren(this.grid, layers, this.marks, this.cross, this.empty);
  }

  /** Where a moment is that lies so many seconds back. */
  x(ago) {
    return this.width - RIGHT - (ago / WINDOW) * (this.width - RIGHT - LEFT);
  }

  y(value) {
    return this.height - BOTTOM - (value / this.top) * (this.height - BOTTOM - TOP);
  }

  draw(live) {
    if (this.width === 0) return;
    if (this.layers.length !== past.backends.length) this.build();
    const stacks = stack(past.backends.map((backend, index) => [...backend[this.name], live[index]]));
    const highest = Math.max(...(stacks[stacks.length - 1] ?? [0]));
    this.step = niceStep(highest / 4);
    this.top = Math.max(1, Math.ceil((highest * 1.04) / this.step)) * this.step;
    this.drawGrid();
    put(this.empty, highest === 0 ? "None in the last five minutes" : "");
    this.layers.forEach((shapes, index) => {
      const path = this.area(stacks[index], index > 0 ? stacks[index - 1] : null);
      for (const shape of shapes) shape.setAttribute("d", path);
    });
    this.drawMarks();
    this.drawHover(live);
    attribute(this.svg, "aria-label", this.summary(live));
  }

  area(tops, floors) {
    const ago = (k) => tops.length - 1 - k;
    const point = (values) => (_, k) => `${this.x(ago(k)).toFixed(1)} ${this.y(values[k]).toFixed(1)}`;
    const upper = tops.map(point(tops));
    const lower = floors ? floors.map(point(floors)).reverse() : [`${this.x(0)} ${this.y(0)}`, `${this.x(ago(0))} ${this.y(0)}`];
    return `M${upper.join("L")}L${lower.join("L")}Z`;
  }

  drawGrid() {
    const key = `${this.top} ${this.step} ${this.width} ${this.height}`;
    if (this.grid.dataset.key === key) return;
    this.grid.dataset.key = key;
    const parts = [];
    for (let value = 0; value <= this.top + this.step / 2; value += this.step) {
      const y = Math.round(this.y(value)) + 0.5;
      parts.push(draw("path", { d: `M${LEFT} ${y}H${this.width - RIGHT}`, class: value === 0 ? "base" : "" }));
      parts.push(draw("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, compact(value)));
    }
    for (let minute = 0; minute <= WINDOW / 60; minute += 1) {
      const x = Math.round(this.x(minute * 60)) + 0.5;
      const anchor = minute === 0 ? "end" : "middle";
      parts.push(draw("path", { d: `M${x} ${TOP}V${this.height - BOTTOM}` }));
      parts.push(draw("text", { x: minute === 0 ? x + RIGHT - 2 : x, y: this.height - 4, "text-anchor": anchor }, minute === 0 ? "now" : `−${minute} min`));
    }
    this.grid.replaceChildren(...parts);
  }

  /** A tick on the time axis for each change of state. */
  drawMarks() {
    const base = this.height - BOTTOM;
    const shapes = { up: "l5 8h-10z", down: "m-5 0h10l-5 8z", suspect: "l4 4l-4 4l-4-4z", syncing: "a4 4 0 1 1 -.1 0z" };
    const marks = now.changes.map((change) => {
      const ago = (Date.parse(now.at) - Date.parse(change.at)) / 1000;
      if (ago > WINDOW) return [];
      const x = this.x(Math.max(0, ago)).toFixed(1);
      const title = draw("title", {}, `${clock(change.at)} ${change.backend} ${change.state}: ${change.reason}`);
      const line = draw("path", { class: "tick", d: `M${x} ${TOP}V${base}` });
      return [draw("g", { "data-state": change.state }, line, draw("path", { class: "mark", d: `M${x} ${base + 2}${shapes[change.state] ?? shapes.suspect}` }), title)];
    });
    this.marks.replaceChildren(...marks.flat());
  }

  point(event) {
    const box = this.host.getBoundingClientRect();
    const share = (this.width - RIGHT - (event.clientX - box.left)) / (this.width - RIGHT - LEFT);
    hover = share >= 0 && share <= 1 ? Math.round(share * WINDOW) : null;
    drawCharts();
  }

  drawHover(live) {
    const values = hover === null ? [] : valuesAt(this.name, hover, live);
    this.tip.hidden = values.length === 0;
    this.cross.setAttribute("d", this.tip.hidden ? "" : `M${this.x(hover)} ${TOP}V${this.height - BOTTOM}`);
    if (this.tip.hidden) return;
    const rows = values.slice(0, TIP_ROWS).map(({ index, value }) => tipRow(chip(index), now.backends[index].name, value));
    if (values.length > TIP_ROWS) rows.push(tipRow("", `${values.length - TIP_ROWS} more`, sum(values.slice(TIP_ROWS).map((v) => v.value))));
    const when = hover === 0 ? "now" : clock(Date.parse(now.at) - hover * 1000);
    this.tip.replaceChildren(tipRow("", when, sum(values.map((v) => v.value))), ...rows);
    const isRight = hover < WINDOW / 2;
    this.tip.style.left = isRight ? "" : `${this.x(hover) + 12}px`;
    this.tip.style.right = isRight ? `${this.width - this.x(hover) + 12}px` : "";
  }

  summary(live) {
    const each = now.backends.map((b, index) => `${b.name} ${compact(live[index])}${b.state === "up" ? "" : ` (${b.state})`}`);
    return `${this.what}, five minutes, stacked by backend. Now ${compact(sum(live))}: ${each.join(", ")}.`;
  }
}

/** The values of the backends so many seconds ago, topmost layer first; none where nothing is known. */
function valuesAt(name, ago, live) {
  const at = (backend, index) => (ago === 0 ? live[index] : backend[name][backend[name].length - ago]);
  const values = past.backends.map((backend, index) => ({ index, value: at(backend, index) }));
  return values.filter((entry) => entry.value !== undefined).reverse();
}

function tipRow(mark, name, value) {
  return make("p", {}, mark, make("span", {}, name), make("b", {}, compact(value)));
}

/** Each series on top of those before it. */
function stack(series) {
  const length = Math.max(0, ...series.map((values) => values.length));
  const floor = new Array(length).fill(0);
  return series.map((values) => values.map((value, k) => (floor[k] += value ?? 0)));
}

/** The smallest of 1, 2, 5, 10, 20, … that is not less. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return power * [1, 2, 5, 10].find((step) => step * power >= least);
}

let charts = [];

function drawCharts() {
  if (now === null) return;
  const live = [now.backends.map((b) => b.leases), liveRates(now)];
  charts.forEach((chart, index) => chart.draw(live[index]));
}

// ---- Shares and legend

function buildBalance(backends) {
  byId("share").replaceChildren(...backends.flatMap((_, index) => coloured(index, "rect", { height: 14 })));
  byId("legend").replaceChildren(...backends.map((backend, index) => {
    const name = make("span", { class: "name", title: backend.name }, backend.name);
    return make("li", { "data-legend": backend.name }, chip(index), name, field("share"), field("detail", "note"));
  }));
}

function showBalance(backends) {
  const rects = [...byId("share").children];
  let x = 0;
  backends.forEach((backend, index) => {
    const width = 1000 * (backend.share ?? 0);
    for (const rect of rects.splice(0, weave(index) > 0 ? 2 : 1)) fill(rect, { x, width }, []);
    x += width;
    const item = byId("legend").children[index];
    attribute(item, "data-state", backend.state);
    put(find(item, "share"), percent(backend.share));
    const isUp = backend.state === "up";
    put(find(item, "detail"), isUp ? `${compact(backend.leases)} held · ${compact(backend.requests.per_second)}/s` : backend.state);
  });
  const shares = backends.map((b) => `${b.name} ${percent(b.share)}`).join(", ");
  attribute(byId("share"), "aria-label", x === 0 ? "Nothing has been asked in the last minute." : `Share of the requests: ${shares}.`);
}

// ---- The table of backends

function buildRow(backend, index) {
  const name = make("span", { class: "name", "data-field": "name", title: backend.name }, backend.name);
  const lane = spark("state");
  lane.querySelector(".spans").dataset.all = "yes";
  const contents = [
    [make("span", { class: "state" }, badge(backend.state), field("for", "note")), field("reason", "reason"), lane],
    [field("leases", "figure"), spark("leases", index)],
    [field("share")],
    [field("per_second", "figure"), spark("requests", index)],
    [field("p99", "figure"), spark("p99_ms", index)],
    [field("p50"), " · ", field("p99_9")],
    [field("errors")],
    [field("replays")],
    [field("error_replies")],
    [field("lag")],
    [field("keys")],
    [field("open"), " of ", field("max"), make("div", { class: "note" }, field("idle"), " idle"), field("waiting", "alarm")],
  ];
  const head = make("th", { scope: "row", role: "rowheader" }, make("div", {}, chip(index), name), field("role", "note"));
  const cells = contents.map((content, k) => make("td", {
    role: "cell", "data-label": byId("columns").cells[k + 1].textContent, class: k === 0 ? "words" : content[1]?.dataset?.spark ? "curve" : "",
  }, ...content));
  return make("tr", { role: "row", "data-backend": backend.name }, head, ...cells);
}

function showRow(row, backend) {
  const show = (name, text, title) => put(find(row, name), text, title);
  const figure = (name, value) => show(name, compact(value), exact(value));
  if (row.dataset.state !== backend.state) {
    row.dataset.state = backend.state;
    row.querySelector(".badge").replaceWith(badge(backend.state));
  }
  show("role", backend.role ?? "");
  show("for", `for ${duration(backend.state_seconds)}`, `since ${new Date(backend.since).toLocaleString("en-GB")}`);
  show("reason", backend.reason ?? "", backend.reason ?? "");
  show("share", percent(backend.share, 1));
  show("per_second", compact(backend.requests.per_second), `${exact(backend.requests.http)} http, ${exact(backend.requests.resp)} redis in all`);
  for (const name of ["leases", "errors", "replays", "error_replies", "keys"]) figure(name, backend[name]);
  show("lag", backend.lag_seconds === null ? "–" : `${exact(backend.lag_seconds)} s`);
  for (const name of ["p50", "p99", "p99_9"]) show(name, milliseconds(backend.latency_ms?.[name]));
  const { open, idle, waiting, max } = backend.connections;
  Object.entries({ open, idle, max }).forEach(([name, value]) => figure(name, value));
  show("waiting", waiting > 0 ? `${compact(waiting)} waiting` : "");
  find(row, "errors").classList.toggle("none", backend.errors === 0);
}

function showCurves() {
  const rows = [...byId("rows").children];
  for (const name of ["leases", "requests", "p99_ms"]) {
    const top = Math.max(name === "p99_ms" ? 0.1 : 1, ...past.backends.flatMap((b) => b[name]));
    rows.forEach((row, index) => {
      const { [name]: values, state } = past.backends[index];
      drawSpark(row.querySelector(`[data-spark="${name}"]`), values, top, state);
    });
  }
  rows.forEach((row, index) => drawSpans(row.querySelector('[data-spark="state"] .spans'), past.backends[index].state, 24));
}

// ---- Lists

/** Replaces a list when what it shows has changed. */
function showList(id, entries, item, empty) {
  const key = JSON.stringify(entries);
  const list = byId(id);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...(entries.length ? entries.map(item) : [make("li", { class: "empty" }, empty)]));
}

function changeItem({ at, backend, state, reason }) {
  const when = make("time", { datetime: at, title: at }, clock(at));
  const name = make("span", { class: "name", title: backend }, backend);
  return make("li", { "data-state": state }, when, badge(state), name, make("span", { class: "reason", title: reason }, reason));
}

function showCommands(commands) {
  const most = Math.max(1, ...commands.map((c) => c.count));
  const item = (command) => {
    const bar = make("div", { class: "bar" });
    bar.style.width = cssShare(command.count, most);
    const name = make("span", { class: "mono", title: command.name }, command.name);
    return make("li", { "data-command": command.name }, name, bar, make("span", { title: exact(command.count) }, compact(command.count)));
  };
  showList("commands", commands, item, "Nothing has been asked yet.");
}

function showCounts({ connections, refused, cut_answers, log_lines_dropped }) {
  const { http: connections_http, resp: connections_resp } = connections;
  const counts = { ...refused, connections_http, connections_resp, cut_answers, log_lines_dropped };
  for (const value of byId("counts").querySelectorAll("dd")) {
    const count = counts[value.dataset.field];
    put(value, compact(count), exact(count));
    value.parentElement.classList.toggle("none", count === 0);
  }
}

// ---- All together

/** Says aloud what has changed of the backends' states, and nothing else. */
function announce(old, status) {
  const changed = status.backends.filter((b, index) => old && old.backends[index]?.state !== b.state);
  if (changed.length > 0) put(byId("announcer"), changed.map((b) => `${b.name} is ${b.state}: ${b.reason}.`).join(" "));
}

function rebuild(backends) {
  const key = JSON.stringify(backends.map((b) => b.name));
  if (byId("rows").dataset.key === key) return;
  byId("rows").dataset.key = key;
  buildBalance(backends);
  byId("rows").replaceChildren(...backends.map(buildRow));
}

function show(status) {
  const isNewSample = past.last === null || status.history.last !== past.last;
  announce(now, status);
  remember(status.history);
  now = status;
  count(status);
  rebuild(status.backends);
  showHeader(status);
  showTiles(status);
  showBalance(status.backends);
  [...byId("rows").children].forEach((row, index) => showRow(row, status.backends[index]));
  if (isNewSample && past.backends.length > 0) showCurves();
  drawCharts();
  showList("changes", status.changes, changeItem, "None yet.");
  showCommands(status.commands);
  showCounts(status);
  const { dataset } = document.documentElement;
  dataset.updates = Number(dataset.updates ?? 0) + 1;
}

function found() {
  if (!byId("lost").hidden) put(byId("announcer"), "lb answers again.");
  answeredAt = Date.now();
  byId("main").className = "";
  document.documentElement.dataset.answering = "yes";
  byId("lost").hidden = true;
}

/** lb does not answer: what was last known stays, greyed. */
function lost(error) {
  const why = error.name === "TimeoutError" ? "it is silent" : error.name === "TypeError" ? "it can't be reached" : error.message;
  const since = answeredAt === null ? "" : ` since ${clock(answeredAt)}, ${duration((Date.now() - answeredAt) / 1000)} ago`;
  put(byId("lost"), `No answer from lb${since}: ${why}. Trying again.`);
  if (byId("lost").hidden) put(byId("announcer"), `No answer from lb: ${why}.`);
  byId("lost").hidden = false;
  byId("main").className = answeredAt === null ? "waiting" : "stale";
  document.documentElement.dataset.answering = "no";
  showOverall({ level: "down", text: "No answer from lb", brief: "no answer" });
}

async function update() {
  try {
    const status = await ask();
    found();
    show(status);
  } catch (error) {
    lost(error);
  }
}

/** Until the next poll is due, or the page is looked at again. */
function pause() {
  return new Promise((resolve) => {
    setTimeout(resolve, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
    document.onvisibilitychange = resolve;
  });
}

async function run() {
  byId("total").append(spark("total"));
  charts = [
    new Chart(byId("leases-chart"), "leases", "Connections held by clients"),
    new Chart(byId("requests-chart"), "requests", "Requests a second"),
  ];
  for (;;) {
    await update();
    await pause();
  }
}

run();
