// Records of one log: from a place on, or live. A live tail draws four times a second and no more rows than are
// shown; what comes faster is counted, not drawn.

const ROWS_MAX = 200;
const PAGE = 100;
const PREVIEW = 2048;
const FRAME_MS = 250;

function bytesOf(record, name = "value") {
  const encoded = record[`${name}_base64`];
  if (encoded === undefined) return new TextEncoder().encode(record[name] ?? "");
  return Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
}

const hexOf = (data) => [...data].map((one) => pad(one.toString(16))).join(" ");

function hexDump(data) {
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const part = data.slice(at, at + 16);
    const text = [...part].map((one) => (one >= 32 && one < 127 ? String.fromCharCode(one) : "·")).join("");
    lines.push(`${pad(at.toString(16), 8)}  ${hexOf(part).padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}

function preview(record, format) {
  if (format === "hex") return hexOf(bytesOf(record).slice(0, 100));
  if (record.value === undefined) return `${record.value_size ?? bytesOf(record).length} bytes: ${hexOf(bytesOf(record).slice(0, 40))}`;
  if (format === "json") {
    try { return JSON.stringify(JSON.parse(record.value)).slice(0, 400); } catch { /* Shown as text. */ }
  }
  return record.value.slice(0, 400);
}

function wholeValue(record, format) {
  if (format === "hex" || record.value === undefined) return hexDump(bytesOf(record));
  if (format === "json") {
    try { return JSON.stringify(JSON.parse(record.value), null, 2); } catch { /* Shown as text. */ }
  }
  return record.value;
}

const keyOf = (record) => record.key ?? (record.key_base64 === undefined ? "" : hexOf(bytesOf(record, "key")));

class TailPanel {
  constructor(name) {
    Object.assign(this, { name, format: "text", records: [], queue: [], source: null, timer: null, retry: null });
    this.isPaused = false;
    this.lastId = null;
    this.asked = 0; // counts what is to be shown: an answer to what was asked before it comes too late
    this.reset();
    this.element = this.build();
  }

  reset() {
    Object.assign(this, { received: 0, dropped: 0, skipped: 0, speed: 0, counted: 0, trouble: "", countedAt: performance.now() });
  }

  build() {
    const options = [["latest", "the newest"], ["earliest", "the oldest"], ["offset", "an offset"], ["time", "a time"]];
    this.start = h("select", { id: "start", onchange: () => this.placeChanged() }, options.map(([value, text]) => h("option", { value, text })));
    this.place = h("input", { id: "place", autocomplete: "off" });
    this.placeField = h("label", { class: "field", for: "place", hidden: true }, h("span", { text: "Which" }), this.place);
    this.liveButton = h("button", { type: "button", class: "main", text: "Live tail", "aria-pressed": "false", onclick: () => this.toggleLive() });
    this.pauseButton = h("button", { type: "button", text: "Pause", hidden: true, "aria-pressed": "false", onclick: () => this.pause(!this.isPaused) });
    this.older = h("button", { type: "button", text: "Older", hidden: true, onclick: () => this.show({ offset: Math.max(this.lowest, this.records[0].offset - PAGE), count: PAGE }) });
    this.newer = h("button", { type: "button", text: "Newer", hidden: true, onclick: () => this.show({ offset: this.nextOffset, count: PAGE }) });
    const formats = [["text", "text"], ["json", "JSON"], ["hex", "hex"]].map(([value, text]) => h("label", {},
      h("input", { type: "radio", name: "format", value, checked: value === "text", onchange: () => this.setFormat(value) }), text));
    this.state = h("div", { class: "tail-state" });
    this.body = h("tbody");
    const column = (text, kind) => h("th", { scope: "col", class: kind, text });
    this.region = h("div", { class: "records", role: "region", tabindex: "0", "aria-label": "Records", onwheel: (event) => { if (event.deltaY < 0) this.pauseToRead(); },
      onkeydown: (event) => { if (["ArrowUp", "PageUp", "Home"].includes(event.key)) this.pauseToRead(); } },
      h("table", {}, h("caption", { class: "unseen", text: `Records of ${this.name}` }),
        h("thead", {}, h("tr", {}, column("Offset", "c-offset"), column("Time", "c-time"), column("Key", "c-key"), column("Value"))), this.body));
    this.nothing = h("p", { class: "empty", text: "Nothing is shown yet." });
    return h("section", {}, h("h2", { text: "Records" }),
      h("form", { onsubmit: (event) => { event.preventDefault(); this.showPlace(); } },
        h("label", { class: "field", for: "start" }, h("span", { text: "From" }), this.start), this.placeField,
        h("button", { text: "Show" }), this.liveButton, this.pauseButton, this.older, this.newer,
        h("fieldset", {}, h("legend", { text: "Values as" }), formats)),
      this.state, this.region, this.nothing);
  }

  placeChanged() {
    const kind = this.start.value;
    this.placeField.hidden = !["offset", "time"].includes(kind);
    this.place.type = kind === "time" ? "datetime-local" : "text";
    this.place.inputMode = kind === "offset" ? "numeric" : "";
    if (kind === "time") this.place.step = "1";
  }

  // --- from a place on ------------------------------------------------------------------------

  showPlace() {
    this.stopLive();
    const kind = this.start.value, asked = this.place.value.trim();
    if (kind === "latest") return this.show({ last: PAGE, count: PAGE });
    if (kind === "earliest") return this.show({ offset: "earliest", count: PAGE });
    if (!asked) { this.place.focus(); return this.say([kind === "time" ? "Choose a time first." : "Type an offset first."]); }
    if (kind === "time") return this.show({ time: String(new Date(asked).getTime() * 1000), count: PAGE });
    const bounds = seen.bounds.get(this.name), offset = Number(asked);
    if (!/^[0-9]+$/.test(asked) || (bounds && (offset < bounds.lowest || offset > bounds.next))) {
      return this.say([`No record has the offset ${asked}${bounds ? `; there are ${whole.format(bounds.lowest)} to ${whole.format(bounds.next - 1)}` : ""}.`]);
    }
    return this.show({ offset: asked, count: PAGE });
  }

  async show(query) {
    const asked = ++this.asked;
    try {
      const page = await ask(`${logPath(this.name)}/records`, { ...query, value_size_max: PREVIEW });
      if (asked !== this.asked) return;
      this.records = page.records;
      this.lowest = page.bounds.lowest;
      this.nextOffset = page.next_offset;
      this.redraw();
      this.region.scrollTop = query.last ? this.region.scrollHeight : 0;
      const shown = page.records;
      this.say([shown.length ? `Offsets ${whole.format(shown[0].offset)} to ${whole.format(shown.at(-1).offset)} of ${whole.format(page.bounds.lowest)} to ${whole.format(page.bounds.next - 1)}` : "No record is there yet."]);
      this.older.hidden = !(shown.length && shown[0].offset > page.bounds.lowest);
      this.newer.hidden = !(shown.length && page.next_offset < page.bounds.next);
    } catch (error) {
      if (asked === this.asked) this.say([error instanceof Refusal ? `${error.message}. ${error.problem.remedy ?? ""}` : "The node does not answer; try again."]);
    }
  }

  setFormat(format) { this.format = format; this.redraw(); }

  redraw() {
    this.body.replaceChildren(...this.records.map((record) => this.row(record)));
    this.nothing.hidden = this.records.length > 0;
    this.region.hidden = !this.records.length;
  }

  row(record) {
    const button = h("button", { type: "button", class: "open", "aria-expanded": "false", text: String(record.offset), onclick: () => this.open(record, button) });
    const key = keyOf(record);
    const row = h("tr", {}, h("td", {}, button), h("td", { title: moment(record.timestamp), text: clock(record.timestamp) }),
      h("td", { class: "cut c-key", text: key.slice(0, 200) }), h("td", { class: "cut", text: preview(record, this.format) }));
    row.children[1].classList.add("c-time");
    return row;
  }

  async open(record, button) {
    const row = button.closest("tr");
    if (button.getAttribute("aria-expanded") === "true") {
      button.setAttribute("aria-expanded", "false");
      row.nextElementSibling?.classList.contains("more") && row.nextElementSibling.remove();
      return;
    }
    this.pauseToRead();
    button.setAttribute("aria-expanded", "true");
    const value = h("pre", { tabindex: "0", role: "region", "aria-label": `Value of record ${record.offset}`, text: "…" });
    const size = record.value_size ?? bytesOf(record).length;
    const facts = [["Time", moment(record.timestamp)], ["Size", `${whole.format(size)} bytes`], ["Key", keyOf(record) || "none"],
      ...(record.headers ?? []).map((one) => [`Header ${one.key}`, one.value ?? hexOf(bytesOf(one))]),
      ...(record.type ? [["Type", String(record.type)]] : [])];
    const list = h("dl", {}, facts.flatMap(([name, text]) => [h("dt", { text: name }), h("dd", { text })]));
    row.after(h("tr", { class: "more" }, h("td", { colspan: "4" }, list, value)));
    let whole_ = record;
    if (record.value_size) {
      try {
        whole_ = (await ask(`${logPath(this.name)}/records`, { offset: record.offset, count: 1 })).records[0] ?? record;
      } catch { value.before(h("p", { class: "dim", text: `The first ${PREVIEW} bytes; the rest cannot be had now.` })); }
    }
    value.textContent = wholeValue(whole_, this.format);
    row.nextElementSibling?.scrollIntoView({ block: "nearest" });
  }

  // --- live -------------------------------------------------------------------------------------

  toggleLive() { if (this.timer) this.stopLive(); else this.startLive(); }

  startLive() {
    this.asked += 1;
    this.reset();
    this.records = [];
    this.queue = [];
    this.lastId = null;
    this.redraw();
    this.nothing.hidden = true;
    this.older.hidden = this.newer.hidden = true;
    this.liveButton.setAttribute("aria-pressed", "true");
    this.liveButton.className = "";
    setText(this.liveButton, "Stop");
    this.pauseButton.hidden = false;
    this.pause(false);
    this.timer = setInterval(() => this.frame(), FRAME_MS);
    this.connect();
  }

  connect() {
    this.retry = null;
    const query = new URLSearchParams({ live: "true", value_size_max: PREVIEW, ...(this.lastId === null ? { last: 50 } : { offset: this.lastId }) });
    const source = this.source = new EventSource(`/api/v1${logPath(this.name)}/follow?${query}`);
    source.addEventListener("open", () => { this.trouble = ""; });
    source.addEventListener("records", (event) => this.take(JSON.parse(event.data)));
    source.addEventListener("skipped", (event) => { const { count } = JSON.parse(event.data); this.skipped += count; this.counted += count; });
    source.addEventListener("problem", (event) => {
      const problem = JSON.parse(event.data);
      this.trouble = `${problem.detail}.`;
      source.close();
      if ([401, 403, 404].includes(problem.status)) this.stopLive();
      else this.later();
    });
    source.addEventListener("error", () => {
      this.trouble = "The connection is lost; trying again.";
      if (source.readyState === EventSource.CLOSED) this.later();
    });
  }

  later() { this.source = null; clearTimeout(this.retry); this.retry = setTimeout(() => this.connect(), 2000); }

  take({ records, next_offset: next }) {
    this.lastId = next;
    this.received += records.length;
    this.counted += records.length;
    this.queue.push(...records);
    const over = this.queue.length - ROWS_MAX;
    if (over > 0) { this.queue.splice(0, over); this.dropped += over; }
  }

  frame() {
    const now = performance.now();
    if (now - this.countedAt > 1000) {
      this.speed = (this.counted * 1000) / (now - this.countedAt);
      this.counted = 0;
      this.countedAt = now;
    }
    if (!this.isPaused && this.queue.length && !document.hidden) {
      const fresh = this.queue.splice(0);
      this.records.push(...fresh);
      if (this.records.length > ROWS_MAX) this.records.splice(0, this.records.length - ROWS_MAX);
      this.region.hidden = false;
      this.body.append(...fresh.map((record) => this.row(record)));
      while (this.body.children.length > ROWS_MAX) this.body.firstElementChild.remove();
      this.region.scrollTop = this.region.scrollHeight;
    }
    this.sayLive();
  }

  sayLive() {
    if (!this.timer) return;
    const left = this.dropped + this.skipped;
    const state = this.trouble ? ["bad", "Reconnecting"] : this.isPaused ? ["warn", "Paused"] : ["good", "Live"];
    this.say([pill(...state), this.trouble || `${rate(this.speed)} records a second`,
      left ? `${number(left)} not shown, they came too fast to read` : "", this.isPaused && this.queue.length ? `${this.queue.length} newer wait` : "",
      this.received ? "" : "Waiting for the next record"]);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.pauseButton.setAttribute("aria-pressed", String(isPaused));
    setText(this.pauseButton, isPaused ? "Go on" : "Pause");
  }

  pauseToRead() { if (this.timer && !this.isPaused && this.records.length) { this.pause(true); this.sayLive(); } }

  stopLive() {
    if (!this.timer) return;
    clearInterval(this.timer);
    clearTimeout(this.retry);
    this.source?.close();
    Object.assign(this, { source: null, timer: null, retry: null });
    this.liveButton.setAttribute("aria-pressed", "false");
    this.liveButton.className = "main";
    setText(this.liveButton, "Live tail");
    this.pauseButton.hidden = true;
    const left = this.dropped + this.skipped;
    this.say([this.trouble || "Stopped.", left ? `${number(left)} were not shown` : ""]);
  }

  say(parts) { this.state.replaceChildren(...parts.filter(Boolean).map((part) => (typeof part === "string" ? h("span", { text: part }) : part))); }

  update() { if (!this.begun) { this.begun = true; this.showPlace(); } }

  close() { this.stopLive(); }
}

const tailPanel = (name) => new TailPanel(name);
