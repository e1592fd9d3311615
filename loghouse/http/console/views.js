// The views. Each has an element, `update` with what was seen last, and `logs`: whose bounds it wants.

const pill = (kind, text) => h("span", { class: `pill ${kind}`, text });

function table(caption, columns, options = {}) {
  const body = h("tbody");
  const head = h("tr", {}, columns.map(([title, kind]) => h("th", { scope: "col", class: kind, text: title })));
  const element = h("table", { class: options.class ?? "cards" }, h("caption", { class: "unseen", text: caption }), h("thead", {}, head), body);
  return { element, body, columns, rows: new Map() };
}

// Keep a table's rows as they are, by key, so that focus and selection stay while figures change.
function updateRows(made, items, keyOf, make) {
  const wanted = new Set(items.map(keyOf));
  for (const [key, row] of made.rows) {
    if (!wanted.has(key)) { row.element.remove(); made.rows.delete(key); }
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (!made.rows.has(key)) {
      const row = make(item);
      [...row.element.children].forEach((cell, place) => {
        const [title, kind] = made.columns[place];
        cell.setAttribute("data-label", title);
        if (kind) cell.classList.add(kind);
      });
      made.rows.set(key, row);
    }
    const row = made.rows.get(key);
    row.update(item);
    if (made.body.children[index] !== row.element) made.body.insertBefore(row.element, made.body.children[index] ?? null);
  });
}

class Facts {
  constructor(names) {
    this.values = new Map(names.map((name) => [name, h("dd", { text: "–" })]));
    this.element = h("dl", { class: "facts" }, names.map((name) => h("div", {}, h("dt", { text: name }), this.values.get(name))));
  }

  set(name, text, small) {
    const value = this.values.get(name);
    const whole = small ? `${text} ${small}` : text;
    if (value.textContent !== whole) value.replaceChildren(text, ...(small ? [" ", h("small", { text: small })] : []));
  }
}

function lagBar() {
  const part = h("div", { class: "fill" });
  const text = h("span");
  return {
    element: h("div", { class: "bar" }, h("div", { class: "track", "aria-hidden": "true" }, part), text),
    update(done, all) {
      const lag = Math.max(0, all - done);
      part.style.width = `${all ? Math.max(2, Math.min(100, (100 * done) / all)) : 0}%`;
      part.className = `fill ${lag > 10000 ? "bad" : lag > 1000 ? "warn" : ""}`;
      setText(text, lag ? `${number(lag)} behind` : "up to date");
    },
  };
}

// --- what needs attention ----------------------------------------------------------------------

function cares() {
  const found = [];
  const say = (kind, what, why) => found.push({ kind, what, why });
  const { cluster, members } = seen;
  if (!cluster) return found;
  if (!cluster.servers.some((one) => one.is_leader)) {
    say("bad", "The cluster has no leader", "Appends wait until a majority of the voters agrees on one. If this lasts for more than some seconds, look at which nodes are down.");
  }
  const shown = new Map((members?.members ?? []).map((one) => [one.name, one]));
  for (const server of cluster.servers) {
    const member = shown.get(server.name);
    if (!server.is_alive || ["dead", "left"].includes(member?.liveness)) {
      say("bad", `${server.name} does not answer`, `Its address is ${server.address}. Start it again, or replace it if it is lost for good.`);
    } else if (member?.liveness === "suspect") {
      say("warn", `${server.name} may be gone`, "Others did not reach it just now and ask around.");
    }
  }
  const head = members ? Math.max(members.commit_index, 0) : 0;
  for (const member of members?.members ?? []) {
    const lag = head - member.match_index;
    if (member.match_index && lag > 1000) say("warn", `${member.name} is ${number(lag)} entries behind`, "It catches up from the leader. A slow disk or network shows here first.");
  }
  const without = seen.logs.filter((log) => !log.leader);
  if (without.length) say("warn", without.length === 1 ? `The log ${without[0].name} has no known leader` : `${without.length} logs have no known leader`, `${without.slice(0, 4).map((log) => log.name).join(", ")}${without.length > 4 ? " and others" : ""}: appends to them wait.`);
  for (const reason of seen.ready?.reasons ?? []) {
    const what = String(reason.reason).replaceAll("_", " ");
    if (!["no leader"].includes(what)) say("warn", `This node is not ready: ${what}`, reason.logs?.length ? `Logs: ${reason.logs.join(", ")}` : "It says so at /readyz.");
  }
  return found;
}

function careBox() {
  const element = h("section", { "aria-label": "What needs attention" });
  let last = null;
  return {
    element,
    update() {
      const found = cares();
      const key = JSON.stringify(found);
      if (key === last) return;
      last = key;
      if (!found.length) {
        element.className = "well";
        element.replaceChildren(h("span", { class: "tick", "aria-hidden": "true", text: "✓" }),
          h("div", {}, h("h2", { text: "All is well" }), h("p", { text: "Every node answers, and every log has a leader." })));
        return;
      }
      element.className = `care ${found.some((one) => one.kind === "bad") ? "bad" : ""}`;
      element.replaceChildren(h("h2", { text: "Needs attention" }), h("ul", {}, found.map((one) => h("li", {}, pill(one.kind, one.kind === "bad" ? "Problem" : "Watch"), h("strong", { text: one.what }), h("p", { text: one.why })))));
    },
  };
}

const tenths = (value) => value.toFixed(value < 10 ? 1 : 0);

// --- overview ------------------------------------------------------------------------------------

function memberRow() {
  const name = h("strong"), badge = h("span", { class: "badge", text: "leader" });
  const state = h("span", { class: "pill" }), lag = lagBar();
  const cells = { role: h("td"), address: h("td", { class: "dim" }), version: h("td", { class: "dim" }) };
  const element = h("tr", {}, h("td", {}, name, " ", badge), h("td", {}, state), cells.role, h("td", {}, lag.element), cells.address, cells.version);
  return {
    element,
    update({ server, member, head }) {
      setText(name, server.name);
      badge.hidden = !server.is_leader;
      const liveness = member?.liveness || (server.is_alive ? "alive" : "dead");
      state.className = `pill ${{ alive: "good", suspect: "warn" }[liveness] ?? "bad"}`;
      setText(state, liveness);
      setText(cells.role, server.role);
      lag.element.hidden = !member?.match_index;
      lag.update(member?.match_index ?? 0, head);
      setText(cells.address, server.address || "–");
      setText(cells.version, member?.version || "–");
    },
  };
}

function membersTable() {
  const made = table("Members of the cluster", [["Node"], ["State"], ["Role"], ["Replication"], ["Address"], ["Version"]]);
  return {
    element: h("div", { class: "scroll" }, made.element),
    update() {
      const known = new Map((seen.members?.members ?? []).map((one) => [one.name, one]));
      const head = Math.max(0, seen.members?.commit_index ?? 0, ...[...known.values()].map((one) => one.match_index));
      const rows = (seen.cluster?.servers ?? []).map((server) => ({ server, member: known.get(server.name), head }));
      updateRows(made, rows, (row) => row.server.name, memberRow);
    },
  };
}

function overview() {
  const care = careBox(), members = membersTable();
  const facts = new Facts(["Leader", "Nodes", "Term", "Logs", "Records in default", "Appended a second"]);
  const lead = h("p", { class: "lead" });
  const note = h("p", { class: "dim", hidden: true });
  const throughput = new Plot("Appended to default", "a second", (one) => one.rate, rate);
  const appends = new Plot("99 % of appends here within", "ms", (one) => one.milliseconds, tenths);
  const latency = new Plot("A read confirmed within", "ms", (one) => one.milliseconds, tenths);
  return {
    title: "Overview",
    element: h("div", {}, h("h1", { tabindex: "-1", text: "Overview" }), lead, care.element,
      h("section", { "aria-label": "The cluster at a glance" }, facts.element),
      h("section", {}, h("h2", { text: "Nodes, and how far each is in the default log" }), members.element, note),
      h("div", { class: "two three" }, throughput.element, appends.element, latency.element)),
    logs: () => ["default"],
    update() {
      const { cluster, members: status } = seen;
      if (!cluster) return;
      setText(lead, `The cluster ${cluster.cluster}, as ${cluster.node} sees it.`);
      care.update();
      members.update();
      facts.set("Leader", cluster.servers.find((one) => one.is_leader)?.name ?? "none");
      const alive = cluster.servers.filter((one) => one.is_alive).length;
      facts.set("Nodes", `${alive} of ${cluster.servers.length}`, "answer");
      facts.set("Term", status ? number(status.term) : "–");
      facts.set("Logs", `${number(seen.logs.length)}${seen.logsNext ? "+" : ""}`);
      const bounds = seen.bounds.get("default");
      facts.set("Records in default", bounds ? number(bounds.next - bounds.lowest) : "–");
      facts.set("Appended a second", rate(ringOf("default").rate));
      note.hidden = !seen.membersRefused;
      setText(note, seen.membersRefused ? `How far each node is, is for who may administer the cluster: ${seen.membersRefused.message}.` : "");
      throughput.draw(ringOf("default"));
      appends.draw(seen.appends);
      latency.draw(ringOf("default"));
    },
  };
}

// --- logs -----------------------------------------------------------------------------------------

const LOGS_SHOWN = 50;
const sizeOf = (name) => (seen.sizes.has(name) ? bytes(seen.sizes.get(name)) : "–");
const kept = (settings) => [settings.retention_bytes ? bytes(settings.retention_bytes) : "", settings.retention_seconds ? span(settings.retention_seconds) : ""].filter(Boolean).join(", ") || "everything";

function logRow(log) {
  const link = h("a", { href: `#${logPath(log.name)}`, text: log.name });
  const curve = svg("path", { class: "curve" });
  const speed = h("span");
  const cells = { held: h("td"), size: h("td"), leader: h("td"), replicas: h("td"), kept: h("td", { class: "dim" }) };
  const element = h("tr", {}, h("td", {}, link), cells.held, cells.size, h("td", {}, speed),
    h("td", {}, svg("svg", { class: "spark", viewBox: "0 0 120 26", "aria-hidden": "true" }, curve)), cells.leader, cells.replicas, cells.kept);
  return {
    element,
    update(now) {
      const bounds = seen.bounds.get(now.name), ring = ringOf(now.name);
      setText(cells.held, bounds ? number(bounds.next - bounds.lowest) : seen.refused.has(now.name) ? "not permitted" : "–");
      setText(cells.size, sizeOf(now.name));
      setText(speed, rate(ring.rate));
      drawSpark(curve, ring);
      setText(cells.leader, now.leader || "none known");
      const alive = now.replicas.filter((one) => one.is_alive).length;
      setText(cells.replicas, `${alive} of ${now.replicas.length}`);
      setText(cells.kept, kept(now.settings));
    },
  };
}

function logsView() {
  const made = table("Logs", [["Log"], ["Records", "number"], ["Size here", "number"], ["A second", "number"], ["Lately"], ["Leader"], ["Replicas that answer"], ["Kept"]]);
  const filter = h("input", { id: "filter", class: "wide", type: "search", autocomplete: "off", spellcheck: "false", oninput: () => view.update() });
  const count = h("p", { class: "dim", "aria-live": "polite" });
  const empty = h("p", { class: "empty", text: "No log has such a name." });
  let shown = [];
  const view = {
    title: "Logs",
    element: h("div", {}, h("h1", { tabindex: "-1", text: "Logs" }), h("p", { class: "lead", text: "The logs that you may see, with what is held and how fast they grow." }),
      h("section", {}, h("label", { class: "field", for: "filter" }, "Filter by name", filter), count, h("div", { class: "scroll" }, made.element), empty)),
    logs: () => shown.map((log) => log.name),
    update() {
      const wanted = seen.logs.filter((log) => log.name.includes(filter.value.trim().toLowerCase()));
      shown = wanted.slice(0, LOGS_SHOWN);
      updateRows(made, shown, (log) => `${log.name} ${log.group}`, logRow);
      const more = wanted.length > shown.length ? `, ${shown.length} shown; the filter finds the others` : "";
      setText(count, `${whole.format(wanted.length)}${seen.logsNext ? " or more" : ""} ${wanted.length === 1 ? "log" : "logs"}${more}`);
      empty.hidden = shown.length > 0;
      made.element.hidden = !shown.length;
    },
  };
  return view;
}

// --- one log ----------------------------------------------------------------------------------------

function replicaRow() {
  const name = h("strong"), badge = h("span", { class: "badge", text: "leader" }), state = h("span", { class: "pill" }), lag = lagBar();
  const element = h("tr", {}, h("td", {}, name, " ", badge), h("td", {}, state), h("td", {}, lag.element));
  return {
    element,
    update({ replica, member, head }) {
      setText(name, replica.node);
      badge.hidden = !replica.is_leader;
      const alive = replica.is_alive || replica.is_leader;
      state.className = `pill ${alive ? "good" : "bad"}`;
      setText(state, alive ? "alive" : "does not answer");
      lag.element.hidden = !member?.match_index;
      lag.update(member?.match_index ?? 0, head);
    },
  };
}

const CURSORS_SHOWN = 50;

function cursorRow() {
  const name = h("strong");
  const cells = { position: h("td"), lag: h("td"), holder: h("td"), lease: h("td", { class: "dim lease" }) };
  const element = h("tr", {}, h("td", {}, name), cells.position, cells.lag, cells.holder, cells.lease);
  return {
    element,
    update(cursor) {
      setText(name, cursor.name);
      setText(cells.position, whole.format(cursor.position));
      setText(cells.lag, cursor.lag === null ? "counts something else" : cursor.lag ? `${number(cursor.lag)} behind` : "up to date");
      setText(cells.holder, cursor.holder || "nobody");
      const lease = cursor.left_milliseconds ? `${tenths(cursor.left_milliseconds / 1000)} s left` : cursor.holder ? "run out" : "–";
      setText(cells.lease, cursor.waiting_count ? `${lease}, ${cursor.waiting_count} waiting` : lease);
    },
  };
}

function cursorsPanel(log) {
  const made = table(`Cursors of ${log}`, [["Cursor"], ["Position", "number"], ["Lag", "number"], ["Holder"], ["Lease"]]);
  const note = h("p", { class: "dim" });
  let told = null;
  return {
    element: h("section", {}, h("h2", { text: "Cursors" }), note, h("div", { class: "scroll" }, made.element)),
    async look() {
      told = await ask(`${logPath(log)}/cursors`, { count: CURSORS_SHOWN }).catch((error) => { if (!(error instanceof Refusal)) throw error; return { refused: error.message }; });
    },
    update() {
      if (!told) return;
      const cursors = told.cursors ?? [];
      updateRows(made, cursors, (cursor) => cursor.name, cursorRow);
      made.element.hidden = !cursors.length;
      setText(note, told.refused ?? (told.next ? `The first ${cursors.length}, by name.` : cursors.length ? "" : "The log keeps no cursor."));
      note.hidden = !note.textContent;
    },
  };
}

function logView(name) {
  const facts = new Facts(["Records", "Lowest offset", "Next offset", "Size on this node", "Appended a second", "Leader", "Kept"]);
  const made = table(`Replicas of ${name}`, [["Node"], ["State"], ["Replication"]]);
  const throughput = new Plot("Throughput", "records a second", (one) => one.rate, rate);
  const latency = new Plot("A read confirmed by the leader", "ms", (one) => one.milliseconds, tenths);
  const note = h("p", { class: "dim" });
  const tail = tailPanel(name), cursors = cursorsPanel(name);
  let status = null, described = null;
  return {
    title: `Log ${name}`,
    element: h("div", {}, h("p", { class: "crumb" }, h("a", { href: "#/logs", text: "All logs" })), h("h1", { tabindex: "-1", text: name }), note,
      h("section", { "aria-label": "The log at a glance" }, facts.element), tail.element,
      h("div", { class: "two" }, throughput.element, latency.element),
      cursors.element,
      h("section", {}, h("h2", { text: "Replicas" }), h("div", { class: "scroll" }, made.element))),
    logs: () => [name],
    async look() {
      described = await ask(logPath(name)).catch((error) => { if (!(error instanceof Refusal)) throw error; setText(note, error.message); return null; });
      status = await ask("/members", { log: name }).catch((error) => { if (!(error instanceof Refusal)) throw error; return null; });
      await cursors.look();
    },
    update() {
      const bounds = seen.bounds.get(name), ring = ringOf(name);
      if (bounds) {
        facts.set("Records", number(bounds.next - bounds.lowest));
        facts.set("Lowest offset", whole.format(bounds.lowest));
        facts.set("Next offset", whole.format(bounds.next));
      }
      facts.set("Size on this node", sizeOf(name));
      facts.set("Appended a second", rate(ring.rate));
      if (described) {
        facts.set("Leader", described.leader || "none known");
        facts.set("Kept", kept(described.settings));
        const settings = described.settings;
        setText(note, [`group ${described.group}`, `${described.replicas.length} of ${settings.replicas} replicas placed`,
          settings.tags.length ? `tags ${settings.tags.join(", ")}` : "", described.created_at ? `made ${moment(described.created_at).slice(0, 16)}` : ""].filter(Boolean).join(" · "));
        const members = new Map((status?.members ?? []).map((one) => [one.name, one]));
        const head = Math.max(0, ...[...members.values()].map((one) => one.match_index), status?.commit_index ?? 0);
        updateRows(made, described.replicas.map((replica) => ({ replica, member: members.get(replica.node), head })), (row) => row.replica.node, replicaRow);
      }
      throughput.draw(ring);
      latency.draw(ring);
      cursors.update();
      tail.update();
    },
    close: () => tail.close(),
  };
}

// --- raw status ---------------------------------------------------------------------------------------

function statusView() {
  const parts = [["The cluster", "/api/v1/cluster"], ["Members", "/api/v1/members"], ["Logs", "/api/v1/logs?count=100"], ["Ready", "/readyz"]];
  const shown = parts.map(([title, path]) => ({ title, path, pre: h("pre", { tabindex: "0", role: "region", "aria-label": `${title}, as JSON` }) }));
  return {
    title: "Status",
    element: h("div", {}, h("h1", { tabindex: "-1", text: "Status" }),
      h("p", { class: "lead" }, "What this node answers, as it comes. ", h("a", { href: "/api/v1/openapi.json", text: "The OpenAPI document" }), " describes every path."),
      shown.map((one) => h("section", { class: "raw" }, h("h2", {}, one.title, " ", h("a", { class: "dim", href: one.path, text: one.path })), one.pre))),
    logs: () => [],
    async look() {
      for (const one of shown) {
        const text = await (await fetch(one.path, { signal: AbortSignal.timeout(8000) })).text();
        let pretty = text;
        try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* As it came. */ }
        setText(one.pre, pretty);
      }
    },
    update() {},
  };
}
