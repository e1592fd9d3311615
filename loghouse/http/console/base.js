"use strict";
// What the views are made of: elements, numbers for people, the API, and what was seen over time.
// Text goes in by `textContent` alone, so nothing that a log holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const h = (name, properties, ...children) => fill(document.createElement(name), properties, children);
const svg = (name, properties, ...children) => fill(document.createElementNS(SVG, name), properties, children);
const byId = (id) => document.getElementById(id);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- numbers ------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const number = (value) => (Math.abs(value) < 10000000 ? whole.format(value) : short.format(value));

function rate(value) {
  if (value === null || value === undefined) return "–";
  return value > 0 && value < 10 ? value.toFixed(1) : number(Math.round(value));
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) { value /= 1024; step += 1; }
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

function span(seconds) {
  for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]]) {
    if (seconds >= size) {
      const count = Math.round(seconds / size);
      return `${whole.format(count)} ${name}${count === 1 ? "" : "s"}`;
    }
  }
  return "a moment";
}

const pad = (value, width = 2) => String(value).padStart(width, "0");

function clock(microseconds) {
  const time = new Date(microseconds / 1000);
  return `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}.${pad(time.getMilliseconds(), 3)}`;
}

function moment(microseconds) {
  const time = new Date(microseconds / 1000);
  return `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())} ${clock(microseconds)}`;
}

// --- the API --------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(problem, status) {
    super(problem.detail || `HTTP ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

const logPath = (name) => `/logs/${encodeURIComponent(name)}`;

async function ask(path, query) {
  const search = query ? `?${new URLSearchParams(query)}` : "";
  const response = await fetch(`/api/v1${path}${search}`, {
    headers: { Accept: "application/json" }, signal: AbortSignal.timeout(8000),
  });
  const text = await response.text();
  let value = {};
  try { value = JSON.parse(text); } catch { /* A proxy may answer with something else. */ }
  if (!response.ok) throw new Refusal(value, response.status);
  return value;
}

// --- what was seen ----------------------------------------------------------------------------

const SAMPLES_MAX = 300;

class Ring {
  // The last samples of one log: when, its next offset, and how long the leader took to confirm it.
  constructor() { this.samples = []; }

  add(next, milliseconds) {
    const last = this.samples.at(-1);
    const at = performance.now() - milliseconds / 2;
    const seconds = last ? (at - last.at) / 1000 : 0;
    const speed = last && seconds > 0.2 && seconds < 15 ? Math.max(0, next - last.next) / seconds : null;
    this.samples.push({ at, next, rate: speed, milliseconds });
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }

  get rate() {
    const recent = this.samples.slice(-3).map((one) => one.rate).filter((one) => one !== null);
    return recent.length ? recent.reduce((sum, one) => sum + one, 0) / recent.length : null;
  }
}

const seen = {
  cluster: null, members: null, membersRefused: null, logs: [], logsNext: "", ready: null,
  bounds: new Map(), rings: new Map(), refused: new Map(),
  sizes: new Map(), appends: { samples: [] },
};

function ringOf(name) {
  if (!seen.rings.has(name)) seen.rings.set(name, new Ring());
  return seen.rings.get(name);
}

// Without a leader nobody confirms anything for a while: that is no reason to take the node for lost.
const asked = new Set();

async function lookAtBounds(name) {
  if (asked.has(name)) return;
  asked.add(name);
  const begun = performance.now();
  try {
    const bounds = await ask(`${logPath(name)}/bounds`);
    seen.bounds.set(name, bounds);
    seen.refused.delete(name);
    ringOf(name).add(bounds.next, performance.now() - begun);
  } catch (error) {
    if (error instanceof Refusal && error.status === 403) seen.refused.set(name, error);
  } finally {
    asked.delete(name);
  }
}

// What the JSON API does not have is in /metrics: the size of each copy here, and how long appends took.
let buckets = null;

async function lookAtMetrics() {
  const response = await fetch("/metrics", { signal: AbortSignal.timeout(8000) });
  if (!response.ok) return;
  const counts = new Map();
  for (const line of (await response.text()).split("\n")) {
    const size = /^loghouse_log_size_bytes\{log="([^"]+)"\} (\S+)/.exec(line);
    if (size) seen.sizes.set(size[1], Number(size[2]));
    const bucket = /^loghouse_append_seconds_bucket\{.*le="([^"]+)".*\} (\S+)/.exec(line);
    if (bucket) {
      const bound = bucket[1] === "+Inf" ? Infinity : Number(bucket[1]);
      counts.set(bound, (counts.get(bound) ?? 0) + Number(bucket[2]));
    }
  }
  const before = buckets;
  buckets = [...counts].sort(([one], [other]) => one - other);
  if (!before) return;
  const fresh = buckets.map(([bound, count], place) => [bound, count - (before[place]?.[1] ?? 0)]);
  seen.appends.samples.push({ at: performance.now(), milliseconds: quantile(fresh, 0.99) });
  if (seen.appends.samples.length > SAMPLES_MAX) seen.appends.samples.shift();
}

// Within how many milliseconds a share of what was counted was done; null when nothing was.
function quantile(counted, share) {
  const all = counted.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let low = 0, below = 0;
  for (const [bound, count] of counted) {
    if (count >= share * all) return 1000 * (bound === Infinity ? low : low + ((bound - low) * (share * all - below)) / (count - below));
    [low, below] = [bound, count];
  }
  return null;
}

// --- plots ------------------------------------------------------------------------------------

function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

class Plot {
  // A line over the last minutes. `pick` takes the value of a sample, null where there is none.
  constructor(title, unit, pick, show) {
    Object.assign(this, { title, unit, pick, show });
    this.area = svg("path", { class: "area" });
    this.curve = svg("path", { class: "curve" });
    const grid = [0, 0.5, 1].map((at) => svg("line", { class: "grid", x1: 0, x2: 600, y1: 4 + at * 142, y2: 4 + at * 142 }));
    this.picture = svg("svg", { viewBox: "0 0 600 150", preserveAspectRatio: "none", role: "img" }, grid, this.area, this.curve);
    this.now = h("span", { class: "plot-now" });
    this.top = h("span");
    this.since = h("span");
    this.element = h("section", { class: "plot" },
      h("div", { class: "plot-head" }, h("h2", { text: title }), this.now),
      this.picture,
      h("div", { class: "axis" }, this.since, this.top, h("span", { text: "now" })));
  }

  draw(ring) {
    const now = performance.now();
    const age = ring.samples.length ? (now - ring.samples[0].at) / 1000 : 0;
    const seconds = [60, 120, 300].find((one) => age <= one) ?? 300;
    const points = ring.samples
      .map((one) => [600 - ((now - one.at) * 0.6) / seconds, this.pick(one)])
      .filter(([x, value]) => value !== null && x >= 0);
    const most = points.reduce((top, [, value]) => Math.max(top, value), 0);
    const top = ceiling(most);
    const line = points.map(([x, value]) => `${x.toFixed(1)} ${(146 - (142 * value) / top).toFixed(1)}`);
    this.curve.setAttribute("d", line.length ? `M${line.join("L")}` : "");
    this.area.setAttribute("d", line.length ? `M${points[0][0].toFixed(1)} 146L${line.join("L")}L${points.at(-1)[0].toFixed(1)} 146Z` : "");
    const last = points.length ? this.show(points.at(-1)[1]) : "–";
    this.now.replaceChildren(`${last} `, h("small", { text: this.unit }));
    setText(this.since, `${span(seconds)} ago`);
    setText(this.top, points.length ? `highest ${this.show(most)}, scale to ${this.show(top)}` : "no sample yet");
    this.picture.setAttribute("aria-label",
      `${this.title}, last ${span(seconds)}: now ${last} ${this.unit}, highest ${this.show(most)} ${this.unit}`);
  }
}

function drawSpark(path, ring) {
  const values = ring.samples.slice(-60).map((one) => one.rate ?? 0);
  const most = Math.max(1, ...values);
  const step = 120 / Math.max(14, values.length - 1);
  const line = values.map((value, index) => `${(120 - (values.length - 1 - index) * step).toFixed(1)} ${(24 - (21 * value) / most).toFixed(1)}`);
  path.setAttribute("d", line.length > 1 ? `M${line.join("L")}` : "");
}
