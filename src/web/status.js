"use strict";

// Draws status.json twice a second. Names, reasons and commands come from outside: they only ever become
// text (textContent and attributes), never markup.

const POLL_MS = 500;
const HIDDEN_POLL_MS = 5000;
const TIMEOUT_MS = 3000;
const WINDOW = 300; // seconds that are shown
const RATE_MS = 900; // shortest time over which the live point of the request chart is measured
const CPU_MS = 5000;
const RECENT_MS = 60000; // how long counters are kept, to show what is new
const COLOURS = 8;
const WEAVES = 4; // colours repeat with another weave
const TIP_ROWS = 10;
const SERIES = ["leases", "requests", "errors", "p99_ms", "state"];

const past = { last: null, backends: [] }; // the history: the last WINDOW samples of each backend
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

/** Sets text and tooltip if they differ, so that the browser lays out only what has changed. */
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
  draining: "M8 2.5v8M4.5 7.2L8 10.8l3.5-3.6M3 13.5h10",
  maint: "M5.5 3.5v9M10.5 3.5v9",
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

/** Draws a shape in a backend's colour, with a weave if the colour repeats. */
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

const exact = (value) => (value == null ? "–" : value.toLocaleString("en"));

function compact(value) {
  if (value == null) return "–";
  if (value < 10000) return exact(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
  const power = Math.min(4, Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** power;
  return `${Number(scaled.toFixed(scaled < 100 ? 1 : 0))}${" kMGT"[power]}`;
}

function bytes(value) {
  if (value == null) return "–";
  const mib = value / 2 ** 20;
  if (value < 1024) return `${value} B`;
  if (mib < 0.1) return `${(value / 1024).toFixed(value < 10240 ? 1 : 0)} KiB`;
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
  if (value == null) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value.toFixed(value < 1 ? 2 : value < 100 ? 1 : 0);
}

const cssShare = (part, whole) => `${Math.min(100, (100 * part) / whole).toFixed(2)}%`;
const percent = (share, digits = 0) => (share == null ? "–" : `${(share * 100).toFixed(digits)} %`);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");
const sum = (values) => values.reduce((total, value) => total + value, 0);
const last = (values) => values[values.length - 1];
const answered = (requests) => requests.http + requests.resp;

// ---- Polling

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

const names = ({ backends }) => JSON.stringify(backends.map((b) => b.name));

/** Whether lb has been restarted, so that its counters began anew, or has other backends. */
function isAnother(status) {
  if (now === null) return false;
  if (names(status) !== names(now)) return true;
  const began = (of) => Date.parse(of.at) / 1000 - of.uptime_seconds;
  return status.uptime_seconds < now.uptime_seconds || Math.abs(began(status) - began(now)) > 5;
}

function forget() {
  Object.assign(past, { last: null, backends: [] });
  now = null;
  recent = [];
}

/** Adds the new samples; starts over if some are missing in between. */
function remember({ last: newest, backends }) {
  if (newest === null) return;
  const first = newest - (backends[0]?.leases.length ?? 0) + 1;
  const follows = past.last !== null && first <= past.last + 1;
  const known = follows ? past.last + 1 - first : 0;
  past.backends = backends.map((backend, index) => {
    const joined = (name) => (follows ? past.backends[index][name] : []).concat(backend[name].slice(known));
    return Object.fromEntries(SERIES.map((name) => [name, joined(name).slice(-WINDOW)]));
  });
  past.last = newest;
}

function count({ refused, process, backends, cache }) {
  const at = performance.now();
  const requests = backends.map((b) => answered(b.requests));
  recent = recent.filter((entry) => at - entry.at < RECENT_MS);
  recent.push({ at, refused, cpu: process.cpu_seconds, requests, cache });
}

/** Returns the newest counters that are at least this old. */
function before(age) {
  const newest = last(recent);
  return recent.findLast((entry) => newest.at - entry.at >= age);
}

/** Returns each backend's current requests a second. */
function liveRates(status) {
  const older = before(RATE_MS);
  if (!older) return status.backends.map((b) => b.requests.per_second);
  const newest = last(recent);
  const seconds = (newest.at - older.at) / 1000;
  return newest.requests.map((total, index) => Math.max(0, total - older.requests[index]) / seconds);
}

function cpuShare() {
  const older = before(CPU_MS) ?? recent[0];
  const newest = last(recent);
  if (older === newest || newest.cpu === null) return null;
  return (newest.cpu - older.cpu) / ((newest.at - older.at) / 1000);
}

// ---- Header

const PHASES = {
  leaving: "Leaving: new clients should go elsewhere",
  draining: "Draining: no new clients",
  closing: "Closing",
};

function overall({ phase, backends }) {
  const of = (state) => backends.filter((b) => b.state === state).length;
  const slow = of("slow");
  const up = of("up") + slow;
  const out = of("draining") + of("maint");
  const all = backends.length - out;
  const brief = `${up}/${all} up`;
  if (phase !== "serving") return { level: "suspect", text: PHASES[phase] ?? phase, brief: phase };
  if (out > 0 && up === all && up > 0) {
    const rest = up === 1 ? "the only other is up" : `all ${up} others are up`;
    return { level: "up", text: `${out} out of service, ${rest}`, brief };
  }
  if (slow > 0) return { level: "suspect", text: `${up} of ${all} backends up, ${slow} slow`, brief };
  if (all === 1 && up === 1) return { level: "up", text: "The backend is up", brief };
  if (up > 0) return { level: up === all ? "up" : "suspect", text: `${up} of ${all} backends up`, brief };
  if (of("suspect") + of("ejected") > 0) return { level: "down", text: "No backend is up: reads go to suspects", brief };
  if (of("draining") > 0) return { level: "down", text: "No backend is up: reads go to those that drain", brief };
  return { level: "down", text: "All reads fail: no backend is up", brief };
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
  document.title = `${mark}${brief} – redis-lb`;
}

function showFavicon(level) {
  const fills = { up: "#00875f", suspect: "#b87400", down: "#c22f1e" };
  const square = draw("rect", { width: 16, height: 16, rx: 4, fill: fills[level] });
  const stroke = { fill: "none", stroke: "#fff", "stroke-width": 2, transform: "translate(1.6 1.6) scale(.8)" };
  const svg = draw("svg", { viewBox: "0 0 16 16" }, square, draw("path", { d: ICONS[level], ...stroke }));
  byId("favicon").href = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(svg))}`;
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

/** Says so if the configuration file is not what is in effect. */
function showConfiguration({ file, loaded_at, refused }) {
  const notice = byId("configuration");
  notice.hidden = refused === null;
  if (refused === null) return;
  put(notice, `The configuration is that of ${loaded_at}. ${file} was not taken over at ${refused.at}: ${refused.reason}`);
}

function showTiles(status) {
  const { clients, requests, refused, process, memory } = status;
  const all = answered(requests);
  const connected = clients.http + clients.resp + clients.new;
  const inAll = all === 0 ? "none answered yet" : `${compact(all)} in total`;
  showTile("requests_per_second", compact(requests.per_second), inAll, exact(requests.per_second));
  const [http, resp, fresh] = [clients.http, clients.resp, clients.new].map(compact);
  const kinds = `${http} http · ${resp} redis · ${fresh} new`;
  showTile("clients", compact(connected), kinds, exact(connected));
  put(document.querySelector(".clients dt"), `Clients, at most ${exact(clients.max)}`);
  document.querySelector(".meter i").style.width = cssShare(connected, clients.max);
  showRefusals("refused_writes", "writes", "answered READONLY");
  showRefusals("bad_requests", "bad_requests", "malformed");
  showRefusals("unanswered", "unanswered", "no backend left");
  showTile("threads", exact(process.threads), "one per client");
  const byClients = `${bytes(memory.held_bytes)} for clients, at most ${bytes(memory.max_bytes)}`;
  showTile("memory", bytes(process.resident_bytes), byClients, exact(process.resident_bytes));
  showTile("cpu", percent(cpuShare()), "of one core");
  showHitRate(status.cache);
  const sums = last(stack(past.backends.map((b) => b.requests))) ?? [];
  drawSpark(byId("total").firstChild, sums, Math.max(1, ...sums), []);
}

/** Shows a count of refusals, highlighted for a minute after it rose. */
function showRefusals(tile, name, note) {
  const total = now.refused[name];
  const fresh = total - recent[0].refused[name];
  showTile(tile, compact(total), fresh > 0 ? `+${compact(fresh)} in 1 min` : note, exact(total));
  find(byId("tiles"), tile).parentElement.classList.toggle("fresh", fresh > 0);
}

/** Shows which part of the reads that can be kept was answered from the cache in the last minute. */
function showHitRate(cache) {
  byId("cache-tile").hidden = cache === null;
  byId("tiles").classList.toggle("cached", cache !== null);
  if (cache === null) return;
  const of = (name) => cache[name] - (recent[0].cache?.[name] ?? 0);
  const [hits, all] = [of("hits"), of("hits") + of("misses")];
  const note = all === 0 ? "no such reads in 1 min" : `of ${compact(all)} in 1 min`;
  showTile("cache_hits", all === 0 ? "–" : percent(hits / all), note, `${exact(hits)} of ${exact(all)} in the last minute`);
}

// ---- Small curves

const CURVE = 24; // their height

function spark(kind, index = null) {
  const paths = ["area", "line", "faults"].map((name) => draw("path", { class: name }));
  const className = index === null ? "spark" : `spark ${colour(index)}`;
  const box = { viewBox: `0 0 ${WINDOW} ${CURVE}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return draw("svg", { ...box, class: className, "data-spark": kind }, draw("g", { class: "spans" }), ...paths);
}

/** Draws values, the newest at the right, with gaps where they are null; the spans of `states` are the background. */
function drawSpark(svg, values, top, states) {
  const offset = WINDOW - values.length;
  const pieces = [];
  values.forEach((value, k) => {
    if (value === null) return;
    const point = `${offset + k} ${(CURVE - 1 - (value / top) * (CURVE - 3)).toFixed(1)}`;
    if (k > 0 && values[k - 1] !== null) last(pieces).points.push(point);
    else pieces.push({ from: offset + k, points: [point] });
  });
  const line = pieces.map((piece) => `M${piece.points.join("L")}${piece.points.length > 1 ? "" : "h1"}`);
  const area = pieces.map((p) => `M${p.from} ${CURVE}L${p.points.join("L")}V${CURVE}Z`);
  svg.querySelector(".line").setAttribute("d", line.join(""));
  svg.querySelector(".area").setAttribute("d", area.join(""));
  drawSpans(svg, states, (state) => state !== "up");
}

/** Draws one rectangle for each span of one state. */
function drawSpans(svg, states, isShown) {
  const offset = WINDOW - states.length;
  const spans = [];
  states.forEach((state, k) => {
    if (state !== states[k - 1]) spans.push({ state, from: k, to: k });
    last(spans).to = k + 1;
  });
  const rects = spans.filter((span) => isShown(span.state)).map(({ state, from, to }) =>
    draw("rect", { x: offset + from, width: to - from, height: CURVE, class: `span ${state}` }));
  svg.querySelector(".spans").replaceChildren(...rects);
}

/** Draws a tick for each second with errors. */
function drawFaults(svg, errors) {
  const offset = WINDOW - errors.length + 0.5;
  const ticks = errors.map((number, k) => (number > 0 ? `M${offset + k} 0v7` : ""));
  svg.querySelector(".faults").setAttribute("d", ticks.join(""));
}

// ---- The two charts

const MARKS = {
  up: "l5 8h-10z",
  suspect: "l4 4l-4 4l-4-4z",
  down: "m-5 0h10l-5 8z",
  syncing: "a4 4 0 1 1 -.1 0z",
};
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
    const className = this.layers.length > COLOURS ? "layers many" : "layers";
    const layers = draw("g", { class: className }, ...this.layers.flat());
    this.grid = draw("g", { class: "grid" });
    this.marks = draw("g", { class: "marks" });
    this.cross = draw("path", { class: "cross" });
    this.empty = draw("text", { class: "empty", x: this.width / 2, y: this.height / 2 });
    this.axis = draw("path", { class: "axis" });
    this.svg.replaceChildren(this.grid, layers, this.axis, this.marks, this.cross, this.empty);
  }

  /** Returns the x position of the moment this many seconds ago. */
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
    const highest = Math.max(...(last(stacks) ?? [0]));
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
    const point = (value, k) => `${this.x(ago(k)).toFixed(1)} ${this.y(value).toFixed(1)}`;
    const lower = floors ? `L${floors.map(point).reverse().join("L")}` : `V${this.y(0)}H${this.x(ago(0))}`;
    return `M${tops.map(point).join("L")}${lower}Z`;
  }

  drawGrid() {
    const key = `${this.top} ${this.step}`;
    if (this.grid.dataset.key === key) return;
    this.grid.dataset.key = key;
    const [right, base] = [this.width - RIGHT, this.height - BOTTOM];
    const parts = [];
    for (let value = 0; value <= this.top; value += this.step) {
      const y = Math.round(this.y(value)) + 0.5;
      if (value === 0) this.axis.setAttribute("d", `M${LEFT} ${y}H${right}`);
      else parts.push(draw("path", { d: `M${LEFT} ${y}H${right}` }));
      parts.push(draw("text", { x: LEFT - 8, y: y + 4, class: "end" }, compact(value)));
    }
    for (let minute = 1; minute <= WINDOW / 60; minute += 1) {
      const x = Math.round(this.x(minute * 60)) + 0.5;
      parts.push(draw("path", { d: `M${x} ${TOP}V${base}` }));
      parts.push(draw("text", { x, y: this.height - 4 }, `−${minute} min`));
    }
    parts.push(draw("text", { x: this.width - 2, y: this.height - 4, class: "end" }, "now"));
    this.grid.replaceChildren(...parts);
  }

  /** Draws a tick on the time axis for each change of state. */
  drawMarks() {
    const ago = (change) => (Date.parse(now.at) - Date.parse(change.at)) / 1000;
    const recent = now.changes.filter((change) => ago(change) <= WINDOW);
    this.marks.replaceChildren(...recent.map((change) => this.mark(change, Math.max(0, ago(change)))));
  }

  mark({ at, backend, state, reason }, ago) {
    const base = this.height - BOTTOM;
    const x = this.x(ago).toFixed(1);
    const line = draw("path", { class: "tick", d: `M${x} ${TOP}V${base}` });
    const shape = draw("path", { class: "mark", d: `M${x} ${base + 2}${MARKS[state] ?? MARKS.suspect}` });
    const title = draw("title", {}, `${clock(at)} ${backend} ${state}: ${reason}`);
    return draw("g", { "data-state": state }, line, shape, title);
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
    const total = (of) => sum(of.map((entry) => entry.value));
    const when = hover === 0 ? "now" : clock(Date.parse(now.at) - hover * 1000);
    const [shown, others] = [values.slice(0, TIP_ROWS), values.slice(TIP_ROWS)];
    const rows = shown.map(({ index, value }) => tipRow(chip(index), now.backends[index].name, value));
    if (others.length > 0) rows.push(tipRow("", `${others.length} more`, total(others)));
    this.tip.replaceChildren(tipRow("", when, total(values)), ...rows);
    const isRight = hover < WINDOW / 2;
    this.tip.style.left = isRight ? "" : `${this.x(hover) + 12}px`;
    this.tip.style.right = isRight ? `${this.width - this.x(hover) + 12}px` : "";
  }

  summary(live) {
    const unless = (state) => (state === "up" ? "" : ` (${state})`);
    const each = now.backends.map((b, index) => `${b.name} ${compact(live[index])}${unless(b.state)}`);
    return `${this.what}, five minutes, stacked by backend. Now ${compact(sum(live))}: ${each.join(", ")}.`;
  }
}

/** Returns the backends' values this many seconds ago, topmost layer first; none if they are unknown. */
function valuesAt(name, ago, live) {
  const at = (backend, index) => (ago === 0 ? live[index] : backend[name][backend[name].length - ago]);
  const values = past.backends.map((backend, index) => ({ index, value: at(backend, index) }));
  return values.filter((entry) => entry.value !== undefined).reverse();
}

function tipRow(mark, name, value) {
  return make("p", {}, mark, make("span", {}, name), make("b", {}, compact(value)));
}

/** Stacks each series on those before it. */
function stack(series) {
  const length = Math.max(0, ...series.map((values) => values.length));
  const floor = new Array(length).fill(0);
  return series.map((values) => values.map((value, k) => (floor[k] += value ?? 0)));
}

/** Returns the smallest of 1, 2, 5, 10, 20, … that is not less. */
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
    const figures = [field("share"), field("detail", "note")];
    return make("li", { "data-legend": backend.name }, chip(index), name, ...figures);
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
    const load = `${compact(backend.leases)} held · ${compact(backend.requests.per_second)}/s`;
    put(find(item, "detail"), backend.state === "up" ? load : backend.state);
  });
  const shares = backends.map((b) => `${b.name} ${percent(b.share)}`).join(", ");
  const label = x === 0 ? "No requests in the last minute." : `Share of the requests: ${shares}.`;
  attribute(byId("share"), "aria-label", label);
}

function showZone({ own, across_share }) {
  const across = own === null ? "" : `; to other zones than ${own}: ${percent(across_share, 1)}`;
  put(byId("zone"), across);
}

// ---- The table of backends

function buildRow(backend, index) {
  const name = make("span", { class: "name", "data-field": "name", title: backend.name }, backend.name);
  const state = make("span", { class: "state" }, badge(backend.state), field("for", "note"));
  const idle = make("div", { class: "note" }, field("idle"), " idle");
  const cells = [
    cell("words", state, field("reason", "reason"), spark("state")),
    cell("curve", field("leases", "figure"), spark("leases", index)),
    cell("", field("share")),
    cell("curve", field("per_second", "figure"), spark("requests", index)),
    cell("curve", field("p99", "figure"), spark("p99_ms", index)),
    cell("", field("p50"), " · ", field("p99_9")),
    cell("", field("errors")),
    cell("", field("retries")),
    cell("", field("error_replies")),
    cell("", field("lag")),
    cell("", field("keys")),
    cell("", field("open"), " of ", field("max"), idle, field("waiting", "alarm")),
  ];
  cells.forEach((td, k) => attribute(td, "data-label", byId("columns").cells[k + 1].textContent));
  const title = make("div", {}, chip(index), name);
  const head = make("th", { scope: "row", role: "rowheader" }, title, field("role", "note"));
  return make("tr", { role: "row", "data-backend": backend.name }, head, ...cells);
}

function cell(className, ...children) {
  return make("td", { role: "cell", class: className }, ...children);
}

/** Describes what a source of backends has found. */
function foundBy({ name, servers, answered_seconds, error }) {
  const count = `${servers.length} ${servers.length === 1 ? "server" : "servers"}`;
  if (error === null) return answered_seconds === null ? `${name} is asked` : `${count} found by ${name}`;
  const last = answered_seconds === null ? "" : ` since ${Math.round(answered_seconds)} s; the last list holds on: ${count}`;
  return `${name} gives no list${last} (${error})`;
}

/** Describes what is configured, or was set at run time, of a backend, beside its role. */
function place({ role, weight, backup, zone, never_read, overrides, cache_refused }) {
  const set = overrides.weight === null ? "" : " (set at run time)";
  const parts = [role, zone && `zone ${zone}`, never_read ? "not read from" : backup && "backup", (weight !== 1 || set) && `weight ${weight}${set}`];
  if (overrides.added) parts.push("added at run time");
  if (cache_refused !== null) parts.push("not cached");
  return parts.filter(Boolean).join(" · ");
}

/** Says how old the data of a replica are, and what they lack. */
function lag({ role, lag_seconds, lag_bytes, lag_is_at_least, staleness_seconds }) {
  if (role !== "replica") return "–";
  const age = staleness_seconds === null ? lag_seconds : Math.round(staleness_seconds * 10) / 10;
  const time = age === null ? "–" : `${exact(age)} s`;
  return lag_bytes > 0 ? `${time} · ${lag_is_at_least ? "≥ " : ""}${compact(lag_bytes)}B` : time;
}

function showRow(row, backend) {
  const show = (name, text, title) => put(find(row, name), text, title);
  const figure = (name, value) => show(name, compact(value), exact(value));
  if (row.dataset.state !== backend.state) {
    row.dataset.state = backend.state;
    row.querySelector(".badge").replaceWith(badge(backend.state));
  }
  show("role", place(backend), backend.cache_refused === null ? "" : `read without the cache: ${backend.cache_refused}`);
  const since = new Date(backend.since).toLocaleString("en-GB");
  show("for", `for ${duration(backend.state_seconds)}`, `since ${since}`);
  show("reason", backend.reason ?? "", backend.reason ?? "");
  show("share", percent(backend.share, 1));
  const { http, resp, per_second } = backend.requests;
  show("per_second", compact(per_second), `${exact(http)} http, ${exact(resp)} redis in total; ${exact(backend.cache_hits)} cache hits`);
  for (const name of ["leases", "errors", "retries", "error_replies", "keys"]) figure(name, backend[name]);
  show("lag", lag(backend), backend.lag_seconds === null ? "" : `heard from its primary ${exact(backend.lag_seconds)} s before the last check`);
  for (const name of ["p50", "p99", "p99_9"]) show(name, milliseconds(backend.latency_ms?.[name]));
  const { open, idle, waiting, max } = backend.connections;
  Object.entries({ open, idle, max }).forEach(([name, value]) => figure(name, value));
  show("waiting", waiting > 0 ? `${compact(waiting)} waiting` : "");
  find(row, "errors").classList.toggle("none", backend.errors === 0);
}

function showCurves() {
  const top = (name, least) => Math.max(least, ...past.backends.flatMap((b) => b[name]));
  const tops = { leases: top("leases", 1), requests: top("requests", 1), p99_ms: top("p99_ms", 0.1) };
  [...byId("rows").children].forEach((row, index) => {
    const samples = past.backends[index];
    const curve = (name) => row.querySelector(`[data-spark="${name}"]`);
    for (const name in tops) drawSpark(curve(name), samples[name], tops[name], samples.state);
    drawFaults(curve("requests"), samples.errors);
    drawSpans(curve("state"), samples.state, () => true);
  });
}

// ---- Lists

/** Replaces a list if its entries have changed. */
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
  const why = make("span", { class: "reason", title: reason }, reason);
  return make("li", { "data-state": state }, when, badge(state), name, why);
}

function bar(part, whole) {
  const bar = make("div", { class: "bar" });
  bar.style.width = cssShare(part, whole);
  return bar;
}

function showCommands(commands) {
  const most = Math.max(1, ...commands.map((c) => c.count));
  const item = (command) => {
    const name = make("span", { class: "mono", title: command.name }, command.name);
    const count = make("span", { title: exact(command.count) }, compact(command.count));
    return make("li", { "data-command": command.name }, name, bar(command.count, most), count);
  };
  showList("commands", commands, item, "No requests yet.");
}

function slowItem({ read, backend, seconds, running }) {
  const time = make("span", {}, `${seconds.toFixed(1)} s`);
  const state = make("span", {}, running ? "running" : "ended");
  const name = make("span", { class: "name", title: backend }, backend);
  const what = make("span", { class: "reason", title: read }, read);
  return make("li", {}, time, state, name, what);
}

function showSlowReads({ ended, busy_seconds, waiting, running, recent }) {
  const busy = ended > 0 ? `, ${duration(busy_seconds)} in total` : "";
  put(byId("slow-note"), `${running.length} running, ${waiting} waiting, ${ended} ended${busy}`);
  const entries = [...running.map((read) => ({ ...read, running: true })), ...recent];
  showList("slow", entries, slowItem, "None yet.");
}

/** Shows the near cache, unless there is none. */
function showCache({ cache, backends }) {
  byId("cache").hidden = cache === null;
  if (cache === null) return;
  const without = backends.filter((b) => b.cache_refused !== null).map((b) => `${b.name} (${b.cache_refused})`);
  const refused = without.length === 0 ? "" : `; not used for ${without.join(", ")}`;
  put(byId("cache-note"), `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}, ${exact(cache.entries)} entries${refused}`);
  showCountsIn("cache-counts", cache);
  const most = Math.max(1, ...(cache.hottest ?? []).map((hot) => hot.reads));
  const item = ({ database, key, reads }) => {
    const name = database === 0 ? key : `${key} (database ${database})`;
    const count = make("span", { title: `about ${exact(reads)} hits; older ones count less` }, compact(reads));
    return make("li", { "data-hot": key }, make("span", { class: "mono", title: name }, name), bar(reads, most), count);
  };
  const empty = cache.hottest === null ? "Shown only to those who may read all keys." : "None yet.";
  showList("hottest", cache.hottest ?? [], item, empty);
}

function showCounts({ connections, refused, cut_answers, log_lines_dropped }) {
  const { http: connections_http, resp: connections_resp } = connections;
  showCountsIn("counts", { ...refused, connections_http, connections_resp, cut_answers, log_lines_dropped });
}

function showCountsIn(id, counts) {
  for (const value of byId(id).querySelectorAll("dd")) {
    const count = counts[value.dataset.field];
    put(value, compact(count), exact(count));
    value.parentElement.classList.toggle("none", count === 0);
  }
}

// ---- All together

/** Announces changes of the backends' states to screen readers, and nothing else. */
function announce(old, status) {
  const changed = status.backends.filter((b, index) => old && old.backends[index].state !== b.state);
  const said = changed.map((b) => `${b.name} is ${b.state}: ${b.reason}.`);
  if (said.length > 0) put(byId("announcer"), said.join(" "));
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
  showConfiguration(status.configuration);
  showBalance(status.backends);
  showZone(status.zone);
  put(byId("sources"), status.sources.map((source) => `; ${foundBy(source)}`).join(""));
  const removed = status.removed_backends;
  put(byId("removed"), removed.length === 0 ? "" : `; removed at run time: ${removed.join(", ")}`);
  [...byId("rows").children].forEach((row, index) => showRow(row, status.backends[index]));
  if (isNewSample && past.backends.length > 0) showCurves();
  drawCharts();
  showList("changes", status.changes, changeItem, "None yet.");
  showCommands(status.commands);
  showSlowReads(status.slow_reads);
  showCache(status);
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

/** Shows that lb does not answer: the last known numbers stay, greyed. */
function lost(error) {
  const reasons = { TimeoutError: "it is silent", TypeError: "it can't be reached" };
  const why = reasons[error.name] ?? error.message;
  const ago = duration((Date.now() - answeredAt) / 1000);
  const since = answeredAt === null ? "" : ` since ${clock(answeredAt)}, ${ago} ago`;
  put(byId("lost"), `No answer from lb${since}: ${why}. Trying again.`);
  if (byId("lost").hidden) put(byId("announcer"), `No answer from lb: ${why}.`);
  byId("lost").hidden = false;
  byId("main").className = answeredAt === null ? "waiting" : "stale";
  document.documentElement.dataset.answering = "no";
  showOverall({ level: "down", text: "No answer from lb", brief: "no answer" });
}

async function update() {
  const status = await ask().catch(lost);
  if (!status) return;
  found();
  show(status);
}

/** Waits until the next poll is due, or the page becomes visible again. */
function pause() {
  return new Promise((resolve) => {
    setTimeout(resolve, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
    document.onvisibilitychange = resolve;
  });
}

async function run() {
  byId("total").append(spark("total"));
  charts = [
    new Chart(byId("leases-chart"), "leases", "Connections of clients"),
    new Chart(byId("requests-chart"), "requests", "Requests a second"),
  ];
  for (;;) {
    await update().catch(console.error);
    await pause();
  }
}

run();
