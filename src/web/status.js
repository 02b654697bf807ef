"use strict";

// Draws status.json twice a second. Names, reasons and commands come from outside: they only ever become
// text (textContent and attributes), never markup.

const POLL_MS = 500;
const HIDDEN_POLL_MS = 5000;
const TIMEOUT_MS = 3000;
const WINDOW = 300; // seconds that are kept
const SPANS = { 60: "minute", 120: "two minutes", [WINDOW]: "five minutes" }; // seconds that are shown, in words
const RATE_MS = 900; // shortest time over which the live point of the request chart is measured
const CPU_MS = 5000;
const RECENT_MS = 10000; // how long counters are kept, for rates
const COLOURS = 8; // where there are more backends, the last colour is that of all others
const TAIL = 10; // characters at the end of a name that stay when its middle is left out: a port, with a whole word
const LONGEST_TAIL = 18;
const SHORT_NAME = 24; // characters of a name that is always shown in full
const LONGEST_NAME = 34; // characters, in the header
const SERIES = ["leases", "requests", "errors", "p99_ms", "state"];

const past = { last: null, drawn: null, backends: [] }; // the history: the last WINDOW samples of each backend
let now = null; // the newest status
let recent = []; // the last counters, oldest first
let answeredAt = null; // when lb last answered
let span = 60; // seconds that are shown: few at first, so that there is something to see
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

/**
 * Has the elements of each key in `parent`, in this order. They stay as long as the key does, so that what is open,
 * selected or focused in them stays so, too.
 */
function keep(parent, kept, keys, build) {
  const wanted = new Set(keys);
  for (const [key, elements] of kept) {
    if (wanted.has(key)) continue;
    for (const element of elements) element.remove();
    kept.delete(key);
  }
  for (const key of keys) if (!kept.has(key)) kept.set(key, build(key));
  const focused = document.activeElement;
  keys.flatMap((key) => kept.get(key)).forEach((element, k) => {
    if (parent.children[k] !== element) parent.insertBefore(element, parent.children[k] ?? null);
  });
  if (parent.contains(focused)) focused.focus({ preventScroll: true });
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

const colour = (index) => `c${index}`;

/** Draws a shape in the colour of a group of backends. */
function coloured(group, tag, attributes = {}) {
  return draw(tag, { ...attributes, class: colour(group) });
}

/** A square in the colour of a group, or of what it is in. */
function chip(group = null) {
  const square = draw("rect", { width: 12, height: 12, rx: 3 });
  const className = group === null ? "chip" : `chip ${colour(group)}`;
  return draw("svg", { viewBox: "0 0 12 12", class: className, "aria-hidden": "true" }, square);
}

/** Where the end of a name begins that stays: at a whole word, if there is a short one. */
function tailOf(name) {
  const word = Math.max(name.lastIndexOf("."), name.lastIndexOf("/"));
  const start = name.length - word <= LONGEST_TAIL ? word + 1 : name.length;
  return Math.max(0, Math.min(start, name.length - TAIL));
}

/** A name of which, where there is no room, the middle is left out: both ends tell names apart. */
function shortened(name) {
  const cut = name.length <= SHORT_NAME ? 0 : tailOf(name);
  const parts = [name.slice(0, cut), name.slice(cut)].filter(Boolean);
  const ends = parts.map((part, k) => make("span", { class: k === 0 && cut > 0 ? "start" : "end" }, part));
  return make("span", { class: "name", title: name }, ...ends);
}

/** Leaves out the middle of a text that is too long. */
function middleOut(text, most) {
  if (text.length <= most) return text;
  const end = text.slice(tailOf(text));
  return `${text.slice(0, most - end.length - 1)}…${end}`;
}

// ---- Groups: the backends of one colour. Each is its own group, unless there are more than colours.

const groupOf = (index, all) => (all > COLOURS ? Math.min(index, COLOURS - 1) : index);

/** Adds up what the backends of each group have. */
function grouped(values) {
  const sums = [];
  values.forEach((value, index) => {
    const group = groupOf(index, values.length);
    sums[group] = (sums[group] ?? 0) + (value ?? 0);
  });
  return sums;
}

/** Adds up the samples of the backends of each group, second by second. */
function groupedSeries(name) {
  const series = past.backends.map((backend) => backend[name]);
  if (series.length <= COLOURS) return series;
  const others = series.slice(COLOURS - 1);
  const total = others[0].map((_, k) => sum(others.map((values) => values[k] ?? 0)));
  return [...series.slice(0, COLOURS - 1), total];
}

function groupNames(backends) {
  const names = backends.map((b) => b.name);
  if (names.length <= COLOURS) return names;
  return [...names.slice(0, COLOURS - 1), `${names.length - COLOURS + 1} others`];
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

/** In full, unless it is very long. */
const countOf = (value) => (value < 10_000_000 ? exact(value) : compact(value));

function bytes(value) {
  if (value == null) return "–";
  const mib = value / 2 ** 20;
  if (value < 1024) return `${value} B`;
  if (mib < 1) return `${(value / 1024).toFixed(value < 10240 ? 1 : 0)} KiB`;
  return mib < 1024 ? `${mib.toFixed(mib < 10 ? 1 : 0)} MiB` : `${(mib / 1024).toFixed(1)} GiB`;
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The date and the time here, as in 2026-11-27 21:15:02. */
function stamp(at) {
  const date = new Date(at);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(at)}`;
}

/** The offset of the time here, as in UTC+01:00. */
function offset(at) {
  const minutes = -new Date(at).getTimezoneOffset();
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  return `UTC${minutes < 0 ? "−" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

/** p50 · p99 · p99.9. */
function quantiles({ p50, p99, p99_9 }) {
  return p50 === null ? "–" : [p50, p99, p99_9].map(milliseconds).join(" · ");
}

function milliseconds(value) {
  if (value == null) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value < 100 ? value.toFixed(value < 1 ? 2 : 1) : exact(Math.round(value));
}

const cssShare = (part, whole) => `${Math.min(100, (100 * part) / whole).toFixed(2)}%`;
const percent = (share, digits = 0) => (share == null ? "–" : `${(share * 100).toFixed(digits)} %`);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");
const windowOf = (seconds) => (seconds >= 58.5 && seconds < 61 ? "in the last minute" : `in the last ${Math.max(1, Math.round(seconds))}\u00a0s`);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const last = (values) => values[values.length - 1];
const answered = (requests) => requests.http + requests.resp;

// ---- Polling

/** Why lb may show this page no longer. Asking on would be taken for guessing passwords. */
class Refused extends Error {}

const REFUSALS = {
  401: "lb asks for a login: the one of this page is no longer right",
  403: "This user may no longer see the status: it needs the right to use INFO",
};

async function ask() {
  const since = past.last === null ? "" : `?since=${past.last}`;
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch(`status.json${since}`, { signal, cache: "no-store" });
  if (response.status in REFUSALS) throw new Refused(REFUSALS[response.status]);
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
  Object.assign(past, { last: null, drawn: null, backends: [] });
  now = null;
  recent = [];
}

/** Adds the new samples; starts over if some are missing in between. */
function remember({ history: { last: newest, backends } }) {
  if (newest === null) return;
  const first = newest - (backends[0]?.leases.length ?? 0) + 1;
  const follows = past.last !== null && first <= past.last + 1;
  const known = follows ? past.last + 1 - first : 0;
  past.backends = backends.map((backend, index) => {
    const joined = (name) => (follows ? past.backends[index][name] : []).concat(backend[name].slice(known));
    return Object.fromEntries(SERIES.map((name) => [name, joined(name).slice(-WINDOW)]));
  });
  past.last = newest;
  const longest = Math.max(0, ...past.backends.map((backend) => backend.state.length));
  span = Object.keys(SPANS).map(Number).find((seconds) => longest <= seconds);
}

function count({ process, backends }) {
  const at = performance.now();
  const requests = backends.map((b) => answered(b.requests));
  recent = recent.filter((entry) => at - entry.at < RECENT_MS);
  recent.push({ at, cpu: process.cpu_seconds, requests });
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

const LEVELS = { ok: "up", degraded: "suspect", failing: "down" };

/** The backends' places in the table: those that fail first, then as they were added. */
const inOrder = (backends) =>
  backends.map((_, index) => index).sort((a, b) => backends[b].severity - backends[a].severity || a - b);

/** Names the worst backends, and says since when: "10.0.0.2 down for 18 s · 1 more". */
function troubles(backends) {
  const bad = inOrder(backends).map((index) => backends[index]).filter((b) => b.severity > 0);
  const said = ({ name, state, state_seconds }) => `${middleOut(name, LONGEST_NAME)} ${state} for ${duration(state_seconds)}`;
  const shown = bad.slice(0, bad.length > 2 ? 1 : 2).map(said);
  if (bad.length > shown.length) shown.push(`${bad.length - shown.length} more`);
  return shown.map((text) => ` · ${text}`).join("");
}

function overall({ phase, verdict, backends }) {
  const brief = phase === "serving" ? `${verdict.up}/${verdict.of} up` : phase;
  return { level: LEVELS[verdict.level], text: verdict.text + troubles(backends), brief };
}

function showOverall({ level, text, brief }) {
  const heading = byId("overall");
  if (heading.dataset.state !== level) {
    heading.dataset.state = level;
    heading.querySelector(".icon").replaceWith(icon(level));
    showFavicon(level);
  }
  const each = now === null ? [] : now.backends.map((b) => `${b.name} ${b.state}`);
  put(find(heading, "overall"), text, [text, ...each].join("\n"));
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
  const began = Date.parse(status.at) - 1000 * status.uptime_seconds;
  put(find(header, "uptime"), duration(status.uptime_seconds), `since ${stamp(began)} ${offset(began)}`);
  showOverall(overall(status));
}

// ---- Tiles

function showTile(name, text, note, title = "") {
  const value = find(byId("tiles"), name);
  put(value, text, title);
  put(value.nextElementSibling, note, note);
}

/** Says so if the configuration file is not what is in effect. */
function showConfiguration({ configuration: { file, loaded_at, refused } }) {
  const notice = byId("configuration");
  notice.hidden = refused === null;
  if (refused === null) return;
  put(notice, `The configuration is that of ${stamp(loaded_at)} ${offset(loaded_at)}. ${file ?? "What was read again"} was not taken over at ${stamp(refused.at)}: ${refused.reason}`);
}

/** Says how long the last minute is, wherever figures are of it. */
function showWindow({ at, last_minute }) {
  for (const element of document.querySelectorAll("[data-window]")) put(element, windowOf(last_minute.seconds));
  put(byId("as-of"), `as of ${stamp(at)} ${offset(at)}`, at);
  put(byId("span"), `state in the last ${SPANS[span]}:`);
  put(byId("offset"), `times are ${offset(at)}`);
}

function showTiles(status) {
  const { clients, requests, process, memory, last_minute } = status;
  const connected = clients.http + clients.resp + clients.new;
  const total = answered(last_minute.requests);
  showTile("requests_per_second", compact(requests.per_second), `${exact(total)} ${windowOf(last_minute.seconds)}`, exact(requests.per_second));
  const [http, resp] = [clients.http, clients.resp].map(compact);
  const fresh = clients.new === 0 ? "" : ` · ${compact(clients.new)} new`;
  showTile("clients", compact(connected), `${http} HTTP · ${resp} Redis${fresh}`, exact(connected));
  put(document.querySelector(".clients dt"), `Clients now, max. ${exact(clients.max)}`);
  document.querySelector(".meter i").style.width = cssShare(connected, clients.max);
  const { latency_ms } = last_minute;
  showTile("latency", quantiles(latency_ms), latency_ms.p50 === null ? "nothing was answered" : "until replies began");
  const refused = (of) => sum(Object.values(of.refused)) - of.refused.unanswered;
  showAlarm("unanswered", last_minute.refused.unanswered, status.refused.unanswered);
  showAlarm("failed", last_minute.errors, status.errors);
  showAlarm("refused", refused(last_minute), refused(status));
  const sent = answered(last_minute.sent_bytes) / Math.max(1, last_minute.seconds);
  const received = answered(last_minute.received_bytes) / Math.max(1, last_minute.seconds);
  showTile("sent", `${bytes(Math.round(sent))}/s`, `in: ${bytes(Math.round(received))}/s`);
  const used = `${bytes(process.resident_bytes)} · ${exact(process.threads)} threads`;
  showTile("process", percent(cpuShare()), used);
  put(find(byId("process"), "held"), `${bytes(memory.held_bytes)}, at most ${bytes(memory.max_bytes)}`);
  put(find(byId("process"), "log_lines_dropped"), exact(status.log_lines_dropped));
  showHitRate(status);
  const sums = last(stack(past.backends.map((b) => b.requests))) ?? [];
  drawSpark(byId("total").firstChild, sums, Math.max(1, ...sums), []);
}

/** Shows what should not happen: highlighted if it did in the last minute. */
function showAlarm(name, fresh, total) {
  showTile(name, compact(fresh), `${compact(total)} in total`, exact(fresh));
  find(byId("tiles"), name).parentElement.classList.toggle("fresh", fresh > 0);
}

/** Shows which part of the reads that can be kept was answered from the cache in the last minute. */
function showHitRate({ cache, last_minute }) {
  byId("cache-tile").hidden = cache === null;
  byId("tiles").classList.toggle("cached", cache !== null);
  if (cache === null) return;
  const { hits, misses } = last_minute.cache;
  const all = hits + misses;
  showTile("cache_hits", all === 0 ? "–" : percent(hits / all), `of ${compact(all)} reads`, `${exact(hits)} of ${exact(all)}`);
}

// ---- Small curves

const CURVE = 24; // their height

function spark(kind) {
  const paths = ["area", "line", "faults"].map((name) => draw("path", { class: name }));
  const box = { preserveAspectRatio: "none", "aria-hidden": "true" };
  return draw("svg", { ...box, class: "spark", "data-spark": kind }, draw("g", { class: "spans" }), ...paths);
}

/** Makes a curve as wide as the seconds that are shown; returns where these values begin in it. */
function fit(svg, values) {
  attribute(svg, "viewBox", `0 0 ${span} ${CURVE}`);
  return span - values.length;
}

/** Draws values, the newest at the right, with gaps where they are null; the spans of `states` are the background. */
function drawSpark(svg, values, top, states) {
  const offset = fit(svg, values);
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
  const offset = fit(svg, states);
  const spans = [];
  states.forEach((state, k) => {
    if (state !== states[k - 1]) spans.push({ state, from: k, to: k });
    last(spans).to = k + 1;
  });
  const rects = spans.filter((span) => span.state !== null && isShown(span.state)).map(({ state, from, to }) =>
    draw("rect", { x: offset + from, width: to - from, height: CURVE, class: `span ${state}` }));
  svg.querySelector(".spans").replaceChildren(...rects);
}

/** Draws a tick for each second with errors. */
function drawFaults(svg, errors) {
  const offset = fit(svg, errors) + 0.5;
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
    this.svg = draw("svg", { "aria-hidden": "true" });
    this.tip = make("div", { class: "tip", hidden: "" });
    host.append(this.svg, this.tip);
    host.addEventListener("pointermove", (event) => this.point(event));
    host.addEventListener("pointerleave", () => hoverAt(null));
    host.addEventListener("keydown", (event) => this.press(event));
    host.addEventListener("blur", () => hoverAt(null));
    new ResizeObserver(([entry]) => this.resize(entry.contentRect)).observe(host);
  }

  resize({ width, height }) {
    Object.assign(this, { width, height });
    this.build();
    drawCharts();
  }

  build() {
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.layers = groupedSeries(this.name).map((_, group) => coloured(group, "path"));
    const layers = draw("g", { class: "layers" }, ...this.layers);
    this.grid = draw("g", { class: "grid" });
    this.marks = draw("g", { class: "marks" });
    this.cross = draw("path", { class: "cross" });
    this.empty = draw("text", { class: "empty", x: this.width / 2, y: this.height / 2 });
    this.axis = draw("path", { class: "axis" });
    this.svg.replaceChildren(this.grid, layers, this.axis, this.marks, this.cross, this.empty);
  }

  /** Returns the x position of the moment this many seconds ago. */
  x(ago) {
    return this.width - RIGHT - (ago / span) * (this.width - RIGHT - LEFT);
  }

  y(value) {
    return this.height - BOTTOM - (value / this.top) * (this.height - BOTTOM - TOP);
  }

  draw(live) {
    if (this.width === 0) return;
    const series = groupedSeries(this.name);
    if (this.layers.length !== series.length) this.build();
    const stacks = stack(series.map((values, group) => [...values, live[group]]));
    const highest = Math.max(...(last(stacks) ?? [0]));
    this.step = niceStep(highest / 4);
    this.top = Math.max(1, Math.ceil((highest * 1.04) / this.step)) * this.step;
    this.drawGrid();
    put(this.empty, highest === 0 ? `None in the last ${SPANS[span]}` : "");
    this.layers.forEach((layer, group) => {
      layer.setAttribute("d", this.area(stacks[group], group > 0 ? stacks[group - 1] : null));
    });
    this.drawMarks();
    this.drawHover(live);
    this.say(live);
  }

  area(tops, floors) {
    const ago = (k) => tops.length - 1 - k;
    const point = (value, k) => `${this.x(ago(k)).toFixed(1)} ${this.y(value).toFixed(1)}`;
    const lower = floors ? `L${floors.map(point).reverse().join("L")}` : `V${this.y(0)}H${this.x(ago(0))}`;
    return `M${tops.map(point).join("L")}${lower}Z`;
  }

  drawGrid() {
    const key = `${this.top} ${this.step} ${span}`;
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
    const step = Math.min(60, span / 4);
    for (let ago = step; ago <= span; ago += step) {
      const x = Math.round(this.x(ago)) + 0.5;
      parts.push(draw("path", { d: `M${x} ${TOP}V${base}` }));
      parts.push(draw("text", { x, y: this.height - 4 }, ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`));
    }
    parts.push(draw("text", { x: this.width - 2, y: this.height - 4, class: "end" }, "now"));
    this.grid.replaceChildren(...parts);
  }

  /** Draws a tick on the time axis for each change of state. */
  drawMarks() {
    const ago = (change) => (Date.parse(now.at) - Date.parse(change.at)) / 1000;
    const recent = now.changes.filter((change) => ago(change) <= span);
    this.marks.replaceChildren(...recent.map((change) => this.mark(change, Math.max(0, ago(change)))));
  }

  mark({ at, backend, state, reason }, ago) {
    const base = this.height - BOTTOM;
    const x = this.x(ago).toFixed(1);
    const line = draw("path", { class: "tick", d: `M${x} ${TOP}V${base}` });
    const shape = draw("path", { class: "mark", d: `M${x} ${base + 2}${MARKS[state] ?? MARKS.suspect}` });
    const title = draw("title", {}, `${stamp(at)} ${offset(at)} ${backend} ${state}: ${reason}`);
    return draw("g", { "data-state": state }, line, shape, title);
  }

  point(event) {
    const box = this.host.getBoundingClientRect();
    const share = (this.width - RIGHT - (event.clientX - box.left)) / (this.width - RIGHT - LEFT);
    hoverAt(share >= 0 && share <= 1 ? Math.round(share * span) : null);
  }

  /** Moves the marker by keys, as those of a slider. */
  press(event) {
    const ago = hover ?? 0;
    const moved = {
      ArrowLeft: ago + 1, ArrowDown: ago + 1, ArrowRight: ago - 1, ArrowUp: ago - 1,
      PageDown: ago + 10, PageUp: ago - 10, Home: span, End: 0, Escape: null,
    };
    if (!(event.key in moved)) return;
    event.preventDefault();
    hoverAt(event.key === "Escape" ? null : Math.min(span, Math.max(0, moved[event.key])));
  }

  drawHover(live) {
    const values = hover === null ? [] : valuesAt(this.name, hover, live);
    this.tip.hidden = values.length === 0;
    this.cross.setAttribute("d", this.tip.hidden ? "" : `M${this.x(hover)} ${TOP}V${this.height - BOTTOM}`);
    if (this.tip.hidden) return;
    const total = (of) => sum(of.map((entry) => entry.value));
    const when = hover === 0 ? "now" : stamp(Date.parse(now.at) - hover * 1000);
    const names = groupNames(now.backends);
    const rows = values.map(({ group, value }) => tipRow(chip(group), shortened(names[group]), value));
    this.tip.replaceChildren(tipRow("", when, total(values)), ...rows);
    const isRight = hover < span / 2;
    this.tip.style.left = isRight ? "" : `${this.x(hover) + 12}px`;
    this.tip.style.right = isRight ? `${this.width - this.x(hover) + 12}px` : "";
  }

  /** Says what is at the marker to those who can't see it. */
  say(live) {
    const ago = hover ?? 0;
    const names = groupNames(now.backends);
    const values = valuesAt(this.name, ago, live);
    const each = values.map(({ group, value }) => `${names[group]} ${compact(value)}`).reverse();
    const said = values.length === 0 ? "not known" : `${compact(sum(values.map(({ value }) => value)))}: ${each.join(", ")}`;
    attribute(this.host, "aria-label", `${this.what} of the last ${SPANS[span]}, by backend`);
    attribute(this.host, "aria-valuemin", String(-span));
    attribute(this.host, "aria-valuenow", String(-ago));
    attribute(this.host, "aria-valuetext", ago === 0 ? `Now ${said}` : `${duration(ago)} ago ${said}`);
  }
}

/** Returns the groups' values this many seconds ago, topmost layer first; none if they are unknown. */
function valuesAt(name, ago, live) {
  const values = groupedSeries(name).map((series, group) => ({ group, value: ago === 0 ? live[group] : series[series.length - ago] }));
  return values.filter((entry) => entry.value != null).reverse();
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

function hoverAt(ago) {
  hover = ago;
  drawCharts();
}

function drawCharts() {
  if (now === null) return;
  const live = [grouped(now.backends.map((b) => b.leases)), grouped(liveRates(now))];
  charts.forEach((chart, index) => chart.draw(live[index]));
}

// ---- Shares and legend

function buildBalance(backends) {
  const names = groupNames(backends);
  const key = JSON.stringify(names);
  if (byId("legend").dataset.key === key) return;
  byId("legend").dataset.key = key;
  byId("legend").classList.toggle("long", names.some((name) => name.length > LONGEST_NAME));
  byId("share").replaceChildren(...names.map((_, group) => coloured(group, "rect", { height: 14 })));
  byId("legend").replaceChildren(...names.map((name, group) => {
    const figures = [field("share"), field("detail", "note")];
    return make("li", { "data-legend": name }, chip(group), shortened(name), ...figures);
  }));
}

function showBalance({ backends }) {
  buildBalance(backends);
  const names = groupNames(backends);
  const [shares, leases] = [grouped(backends.map((b) => b.share)), grouped(backends.map((b) => b.leases))];
  const rates = grouped(backends.map((b) => b.requests.per_second));
  const isKnown = backends.some((b) => b.share !== null);
  let x = 0;
  names.forEach((_, group) => {
    const width = 1000 * shares[group];
    fill(byId("share").children[group], { x, width }, []);
    x += width;
    const item = byId("legend").children[group];
    const isUp = names.length < backends.length && group === COLOURS - 1 ? true : backends[group].state === "up";
    attribute(item, "data-state", isUp ? "up" : backends[group].state);
    put(find(item, "share"), isKnown ? percent(shares[group]) : "–");
    put(find(item, "detail"), isUp ? `${compact(leases[group])} leases · ${compact(rates[group])}/s now` : backends[group].state);
  });
  const said = names.map((name, group) => `${name} ${percent(shares[group])}`).join(", ");
  attribute(byId("share"), "aria-label", isKnown ? `Share of the requests: ${said}.` : "No requests in the last minute.");
}

function showZone({ zone: { own, across_share } }) {
  const across = own === null ? "" : `; to other zones than ${own}: ${percent(across_share, 1)}`;
  put(byId("zone"), across);
}

// ---- The table of backends

const rows = new Map(); // of the table, by the backend's name: the row, the reason, the details
let detailsBuilt = 0; // for their ids

function buildRow(name) {
  const detailsId = `details-${++detailsBuilt}`;
  const more = make("button", { type: "button", class: "more", "aria-label": name, "aria-expanded": "false", "aria-controls": detailsId }, chip(), shortened(name));
  const state = make("span", { class: "state" }, badge(""), field("for", "note"), spark("state"));
  const cells = [
    cell("words", state),
    cell("curve", spark("leases"), field("leases", "figure")),
    cell("", field("share")),
    cell("curve", spark("requests"), field("per_second", "figure")),
    cell("", field("quantiles")),
    cell("", field("failed")),
    cell("", field("outages")),
    cell("wide", field("check")),
    cell("", field("lag")),
    cell("", field("keys")),
    cell("wide", field("open"), "/", field("max"), field("waiting", "alarm")),
  ];
  cells.forEach((td, k) => attribute(td, "data-label", byId("columns").cells[k + 1].textContent));
  const title = make("div", { class: "title" }, more, field("role", "note"));
  const head = make("th", { scope: "row", role: "rowheader" }, title);
  const row = make("tr", { role: "row", "data-backend": name }, head, ...cells);
  const reason = make("p", { class: "reason" }, field("reason"), buildProgress());
  const columns = byId("columns").cells.length;
  const why = make("tr", { role: "row", class: "why" }, make("td", { role: "cell", colspan: columns }, reason));
  const list = make("dl", { id: detailsId, class: "details" });
  const details = make("tr", { role: "row", class: "details", hidden: "" }, make("td", { role: "cell", colspan: columns }, list));
  more.addEventListener("click", () => {
    details.hidden = !details.hidden;
    attribute(more, "aria-expanded", String(!details.hidden));
    const backend = now?.backends.find((b) => b.name === name);
    if (backend) showDetails(list, backend);
  });
  return [row, why, details];
}

function cell(className, ...children) {
  return make("td", { role: "cell", class: className }, ...children);
}

function buildProgress() {
  const bar = make("span", { class: "progress", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, make("i"));
  return make("span", { class: "syncing", hidden: "" }, bar, field("progress"));
}

/** Shows how far a backend is with its data. */
function showProgress(why, { name, syncing }) {
  const host = why.querySelector(".syncing");
  host.hidden = syncing === null;
  if (syncing === null) return;
  const number = syncing.unit === "bytes" ? bytes : exact;
  const share = syncing.of === 0 ? 0 : Math.min(1, syncing.has / syncing.of);
  const bar = host.querySelector(".progress");
  attribute(bar, "aria-label", `data of ${name}`);
  attribute(bar, "aria-valuenow", String(Math.round(100 * share)));
  bar.firstChild.style.width = cssShare(syncing.has, syncing.of || 1);
  put(find(host, "progress"), `${percent(share)}: ${number(syncing.has)} of ${number(syncing.of)}${syncing.unit === "keys" ? " keys" : ""}`);
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

const times = (count) => `${exact(count)} ${count === 1 ? "time" : "times"}`;
const shortTime = (seconds) => (seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds).replace(/ \d+ s$/, ""));

/** Says how often a backend was down, and how long in all. */
function outages({ times_down, down_seconds }) {
  return times_down === 0 ? "0" : `${exact(times_down)}× · ${shortTime(down_seconds)}`;
}

/** What there is to say of a backend beside the columns, as names and texts. */
function detailsOf(b) {
  const minute = b.last_minute;
  const check = b.last_check;
  const within = windowOf(minute.seconds);
  return [
    ["Address", b.name],
    ["Role and settings", place(b)],
    [`${b.state} since`, `${stamp(b.since)} ${offset(b.since)}: ${b.reason}`],
    ["Down", b.times_down === 0 ? "not since the start" : `${times(b.times_down)}, ${duration(b.down_seconds)} in all; ejected ${times(b.ejections)}`],
    ["Last check", check === null ? "none yet" : `${stamp(check.at)} ${offset(check.at)}, took ${milliseconds(check.took_ms)} ms, ${check.answered ? "answered" : "failed"}`],
    [`Requests ${within}`, `${exact(minute.requests.http)} HTTP, ${exact(minute.requests.resp)} Redis, ${exact(minute.cache_hits)} cache hits`],
    ["Requests since the start", `${exact(b.requests.http)} HTTP, ${exact(b.requests.resp)} Redis, ${exact(b.cache_hits)} cache hits`],
    [`Failed tries ${within}`, `${exact(minute.errors)}, of these ${exact(minute.retries)} tried again elsewhere; ${exact(minute.error_replies)} error replies`],
    ["Failed tries since the start", `${exact(b.errors)}, of these ${exact(b.retries)} tried again elsewhere; ${exact(b.error_replies)} error replies`],
    [`Bytes ${within}`, `${bytes(minute.received_bytes)} from it, ${bytes(minute.sent_bytes)} to it`],
    ["Bytes since the start", `${bytes(b.received_bytes)} from it, ${bytes(b.sent_bytes)} to it`],
    ["Pool", `${exact(b.connections.open)} connections, ${exact(b.connections.idle)} idle, at most ${exact(b.connections.max)}; ${exact(b.connections.waiting)} clients wait`],
    ["Cache", b.cache_refused === null ? "" : `read without it: ${b.cache_refused}`],
  ].filter(([, text]) => text !== "");
}

function showDetails(list, backend) {
  const details = detailsOf(backend);
  if (list.children.length !== details.length) {
    list.replaceChildren(...details.map(() => make("div", {}, make("dt"), make("dd"))));
  }
  details.forEach(([name, text], k) => {
    put(list.children[k].children[0], name);
    put(list.children[k].children[1], text);
  });
}

function showRow([row, why, details], backend) {
  const show = (name, text, title) => put(find(row, name), text, title);
  const figure = (name, value) => show(name, compact(value), exact(value));
  if (row.dataset.state !== backend.state) {
    for (const part of [row, why, details]) part.dataset.state = backend.state;
    row.querySelector(".badge").replaceWith(badge(backend.state));
  }
  show("for", duration(backend.state_seconds), `since ${stamp(backend.since)} ${offset(backend.since)}`);
  why.hidden = !backend.telling;
  put(find(why, "reason"), backend.reason ?? "");
  showProgress(why, backend);
  if (!details.hidden) showDetails(details.querySelector("dl"), backend);
  show("role", place(backend), backend.cache_refused === null ? "" : `read without the cache: ${backend.cache_refused}`);
  show("share", percent(backend.share, 1));
  const { last_minute, requests, connections, last_check } = backend;
  const within = windowOf(last_minute.seconds);
  const total = answered(last_minute.requests);
  show("per_second", compact(requests.per_second), `${exact(total)} ${within}`);
  figure("leases", backend.leases);
  show("keys", backend.keys === null ? "–" : countOf(backend.keys), exact(backend.keys));
  find(row, "lag").parentElement.classList.toggle("absent", backend.role !== "replica");
  show("lag", lag(backend), backend.lag_seconds === null ? "" : `heard from its primary ${exact(backend.lag_seconds)} s before the last check`);
  show("quantiles", quantiles(last_minute.latency_ms));
  show("failed", compact(last_minute.errors), `${exact(last_minute.errors)} ${within}, ${exact(backend.errors)} since the start`);
  find(row, "failed").className = last_minute.errors === 0 ? "none" : "alarm";
  show("outages", outages(backend), `down ${times(backend.times_down)} since the start, ${duration(backend.down_seconds)} in all`);
  find(row, "outages").className = backend.times_down === 0 ? "none" : "";
  const took = last_check === null ? "–" : `${last_check.answered ? "" : "✕ "}${Math.floor(last_check.seconds_ago)} s ago · ${milliseconds(last_check.took_ms)} ms`;
  show("check", took, last_check === null ? "" : `${last_check.answered ? "answered" : "failed"} at ${stamp(last_check.at)} ${offset(last_check.at)}`);
  find(row, "check").className = last_check?.answered === false ? "alarm" : "";
  const { open, max, waiting } = connections;
  Object.entries({ open, max }).forEach(([name, value]) => figure(name, value));
  show("waiting", waiting > 0 ? ` ${compact(waiting)} wait` : "");
}

/** Shows the backends, those first that fail. */
function showRows({ backends }) {
  keep(byId("rows"), rows, inOrder(backends).map((index) => backends[index].name), buildRow);
  backends.forEach((backend, index) => {
    const parts = rows.get(backend.name);
    attribute(parts[0], "class", colour(groupOf(index, backends.length)));
    showRow(parts, backend);
  });
}

function showCurves({ backends }) {
  if (past.drawn === past.last) return;
  past.drawn = past.last;
  const top = (name) => past.backends.reduce((most, b) => Math.max(most, ...b[name]), 1);
  const tops = { leases: top("leases"), requests: top("requests") };
  past.backends.forEach((samples, index) => {
    const [row] = rows.get(backends[index].name);
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

function showChanges({ changes }) {
  showList("changes", changes, changeItem, "None yet.");
}

function changeItem({ at, backend, state, reason }) {
  const when = make("time", { datetime: at, title: `${stamp(at)} ${offset(at)}` }, stamp(at));
  return make("li", { "data-state": state }, when, badge(state), shortened(backend), make("span", { class: "reason" }, reason));
}

function bar(part, whole) {
  const bar = make("div", { class: "bar" });
  bar.style.width = cssShare(part, whole);
  return bar;
}

const commandRows = new Map(); // by the command's name

function buildCommand(name) {
  const head = make("th", { scope: "row", class: "mono" }, name);
  return [make("tr", { "data-command": name }, head, make("td"), make("td"), make("td"))];
}

/** Shows the commands, those first that were sent most in the last minute. */
function showCommands({ commands }) {
  const sorted = [...commands].sort((a, b) => b.last_minute.count - a.last_minute.count || b.count - a.count);
  byId("no-commands").hidden = sorted.length > 0;
  keep(byId("commands"), commandRows, sorted.map(({ name }) => name), buildCommand);
  for (const { name, count, last_minute } of sorted) {
    const [row] = commandRows.get(name);
    put(row.cells[1], countOf(last_minute.count), exact(last_minute.count));
    put(row.cells[2], quantiles(last_minute.latency_ms));
    put(row.cells[3], countOf(count), exact(count));
  }
}

function slowItem({ read, backend, seconds, running }) {
  const time = make("b", {}, `${seconds.toFixed(1)} s`);
  const state = make("span", { class: running ? "alarm" : "note" }, running ? "running" : "ended");
  return make("li", {}, time, state, shortened(backend), make("span", { class: "mono read" }, read));
}

function showSlowReads({ slow_reads: { ended, busy_seconds, waiting, running, recent } }) {
  const busy = ended > 0 ? `, ${duration(busy_seconds)} in all` : "";
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

/** The counts of the last minute, or of all time, by the names that the tables give them. */
function countsOf({ requests, connections, received_bytes, sent_bytes, responses, refused, cut_answers, errors, retries, error_replies }) {
  return {
    requests_http: requests.http,
    requests_resp: requests.resp,
    connections_http: connections.http,
    connections_resp: connections.resp,
    received_http: received_bytes.http,
    received_resp: received_bytes.resp,
    sent_http: sent_bytes.http,
    sent_resp: sent_bytes.resp,
    ...responses,
    ...refused,
    cut_answers,
    errors,
    retries,
    error_replies,
  };
}

function showCounts(status) {
  const [minute, total] = [status.last_minute, status].map(countsOf);
  for (const row of document.querySelectorAll("[data-count]")) {
    const name = row.dataset.count;
    [minute[name], total[name]].forEach((value, k) => {
      const isBytes = /^(received|sent)_/.test(name);
      put(row.cells[k + 1], isBytes ? bytes(value) : countOf(value), isBytes ? `${exact(value)} bytes` : exact(value));
    });
    row.classList.toggle("none", total[name] === 0);
  }
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
function announce({ backends }) {
  const changed = backends.filter((b, index) => now !== null && now.backends[index].state !== b.state);
  const said = changed.map((b) => `${b.name} is ${b.state}: ${b.reason}.`);
  if (said.length > 0) put(byId("announcer"), said.join(" "));
}

/** Describes where the backends come from, unless they are simply configured. */
function showSources({ sources, removed_backends }) {
  const removed = removed_backends.length === 0 ? [] : [`removed at run time: ${removed_backends.join(", ")}`];
  put(byId("sources"), [...sources.map(foundBy), ...removed].join("; "));
}

function take(status) {
  now = status;
}

// An error in one of them leaves the others as they are.
const PARTS = [
  announce, take, remember, count, showHeader, showWindow, showTiles, showConfiguration, showBalance, showZone,
  showSources, showRows, showCurves, drawCharts, showChanges, showCommands, showSlowReads, showCache, showCounts,
];

function show(status) {
  const errors = PARTS.flatMap((part) => {
    try {
      part(status);
      return [];
    } catch (error) {
      console.error(error);
      return [`${part.name}: ${error.message}`];
    }
  });
  byId("error").hidden = errors.length === 0;
  put(byId("error"), `This page has an error, and not all of it is up to date. ${errors.join("; ")}`);
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

/** Shows why there is nothing new: the last known numbers stay, greyed. */
function showLost(text, brief) {
  put(byId("lost"), text);
  byId("lost").hidden = false;
  put(byId("announcer"), `${brief}.`);
  byId("main").className = answeredAt === null ? "waiting" : "stale";
  document.documentElement.dataset.answering = "no";
  showOverall({ level: "down", text: brief, brief: brief.toLowerCase() });
}

function lost(error) {
  const reasons = { TimeoutError: "it is silent", TypeError: "it can't be reached" };
  const why = reasons[error.name] ?? error.message;
  const ago = duration((Date.now() - answeredAt) / 1000);
  const since = answeredAt === null ? "" : ` since ${stamp(answeredAt)} ${offset(answeredAt)}, ${ago} ago`;
  showLost(`No answer from lb${since}: ${why}. Trying again.`, "No answer from lb");
}

function refused({ message }) {
  showLost(`${message}. Nothing more is asked. `, "Not permitted");
  byId("lost").append(make("a", { href: "" }, "Load the page again"));
}

/** Asks for the status and shows it. Returns whether to ask again. */
async function update() {
  let status;
  try {
    status = await ask();
  } catch (error) {
    const isRefused = error instanceof Refused;
    (isRefused ? refused : lost)(error);
    return !isRefused;
  }
  found();
  show(status);
  return true;
}

/** Waits until the next poll is due, or the page becomes visible again. */
function pause() {
  return new Promise((resolve) => {
    setTimeout(resolve, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
    document.onvisibilitychange = resolve;
  });
}

async function run() {
  put(find(byId("overall"), "overall"), "Waiting for lb");
  byId("total").append(spark("total"));
  charts = [
    new Chart(byId("leases-chart"), "leases", "Leases"),
    new Chart(byId("requests-chart"), "requests", "Requests a second"),
  ];
  while (await update()) await pause();
}

run();
