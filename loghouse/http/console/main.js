// Which view is shown, looking again and again, and what happens when the node is gone.

const TICK_MS = 1000;
let view = null, misses = 0, lostAt = null, tick = 0, isLooking = false, nextAt = 0;

// --- views -----------------------------------------------------------------------------------

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  if (parts[0] === "logs" && parts[1]) {
    let name = parts[1];
    try { name = decodeURIComponent(name); } catch { /* Taken as it is. */ }
    return ["logs", logView(name)];
  }
  if (parts[0] === "logs") return ["logs", logsView()];
  if (parts[0] === "status") return ["status", statusView()];
  return ["overview", overview()];
}

function go(isFirst) {
  if (location.hash === "#content") return;
  view?.close?.();
  const [name, made] = route();
  view = made;
  document.title = `${view.title} · Loghouse`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("content").replaceChildren(view.element);
  scrollTo(0, 0);
  if (!isFirst) view.element.querySelector("h1").focus({ preventScroll: true });
  view.update();
  view.isNew = true;
  nextAt = 0;
  look();
}

// --- looking ------------------------------------------------------------------------------------

async function lookAtMembers() {
  if (seen.membersRefused && tick % 30) return;
  try {
    seen.members = await ask("/members");
    seen.membersRefused = null;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    seen.members = null;
    seen.membersRefused = error.status === 403 ? error : null;
  }
}

async function lookAtLogs() {
  let after = "", logs = [];
  do {
    const page = await ask("/logs", { count: 1000, ...(after ? { after } : {}) });
    logs = logs.concat(page.logs);
    after = page.next;
  } while (after && logs.length < 5000);
  seen.logs = logs;
  seen.logsNext = after;
}

async function lookAtReady() {
  const response = await fetch("/readyz", { signal: AbortSignal.timeout(8000) });
  seen.ready = await response.json().catch(() => null);
}

async function look() {
  if (isLooking || document.hidden || performance.now() < nextAt) return;
  isLooking = true;
  const shown = view;
  try {
    const work = [];
    if (tick % 2 === 0 || shown.isNew) work.push(ask("/cluster").then((cluster) => { cluster.servers.sort((a, b) => a.name.localeCompare(b.name)); seen.cluster = cluster; }), lookAtMembers());
    if (tick % 4 === 0 || shown.isNew) work.push(lookAtLogs(), lookAtReady(), lookAtMetrics());
    if (shown.look && (tick % 2 === 0 || shown.isNew)) work.push(shown.look());
    shown.isNew = false;
    await Promise.all(work);
    found();
    tick += 1;
    shown.update();
    Promise.all(shown.logs().map(lookAtBounds)).then(() => { if (view === shown) shown.update(); });
  } catch (error) {
    missed(error);
  } finally {
    isLooking = false;
  }
  if (view.isNew) { nextAt = 0; look(); }
}

// --- the node is there, or gone --------------------------------------------------------------------

function setLink(kind, text) { byId("link").className = `pill ${kind}`; setText(byId("link"), text); }

function found() {
  if (lostAt !== null) setText(byId("spoken"), "Connected again.");
  misses = 0;
  lostAt = null;
  nextAt = performance.now() + TICK_MS * 0.8;
  setLink("good", "Connected");
  byId("alert").hidden = true;
  byId("content").classList.remove("stale");
  setText(byId("where"), `${seen.cluster.cluster} · ${seen.cluster.node} · ${seen.cluster.subject}`);
}

function missed(error) {
  misses += 1;
  const wait = Math.min(8, 2 ** (misses - 1));
  nextAt = performance.now() + wait * 1000;
  const node = seen.cluster ? seen.cluster.node : "The node";
  if (error instanceof Refusal) {
    setLink("warn", "Refused");
    setText(byId("alert"), `${error.message}. ${error.problem.remedy ?? ""}`);
  } else {
    lostAt ??= Date.now();
    setLink("bad", "Reconnecting");
    setText(byId("alert"), `${node} has not answered since ${clock(lostAt * 1000).slice(0, 8)}. What you see is as it was then; this page goes on by itself when the node is back.`);
    byId("content").classList.add("stale");
  }
  byId("alert").hidden = false;
}

// --- light and dark -----------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
const isDark = matchMedia("(prefers-color-scheme: dark)");
let theme = "system";
try { theme = localStorage.getItem("loghouse-theme") ?? "system"; } catch { /* No storage: the system's. */ }

function paint() {
  if (!THEMES.includes(theme)) theme = "system";
  document.documentElement.dataset.theme = theme === "system" ? (isDark.matches ? "dark" : "light") : theme;
  setText(byId("theme"), `Theme: ${theme}`);
}

byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("loghouse-theme", theme); } catch { /* For this page alone, then. */ }
  paint();
});
isDark.addEventListener("change", paint);
paint();

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); byId("content").focus(); });
addEventListener("hashchange", () => go(false));
addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
go(true);
setInterval(look, TICK_MS);
