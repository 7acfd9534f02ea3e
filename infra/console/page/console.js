// Takes snapshots as they come and keeps the page true: also about how old it is.

import { h, morph, moment, span } from "./dom.js";
import { GLANCE, PANELS, WORDS } from "./panels.js";

const LOST_AFTER = 3; // times the time between snapshots
const RETRY_STREAM_MS = 5000;

let newest = null; // the snapshot shown
let receivedAt = 0; // by the browser's own clock, which nobody sets back
let mode = "connecting";
let poller = null;
let spoken = "";

function byId(id) {
  return document.getElementById(id);
}

function take(text) {
  const found = JSON.parse(text);
  if (newest === null || found.sequence !== newest.sequence || found.started_ms !== newest.started_ms) {
    newest = found;
    receivedAt = performance.now();
    show();
  }
  tick();
}

// ---- where snapshots come from

function listen() {
  const source = new EventSource("/api/events");
  source.onmessage = (event) => {
    mode = "live";
    stopPolling();
    take(event.data);
  };
  source.onerror = () => {
    mode = "polling";
    poll();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_STREAM_MS);
  };
}

function poll() {
  if (poller === null) {
    poller = setInterval(ask, 1000 * (newest ? newest.every_s : 2));
    ask();
  }
}

function stopPolling() {
  clearInterval(poller);
  poller = null;
}

async function ask() {
  try {
    const answer = await fetch("/api/snapshot", { signal: AbortSignal.timeout(4000) });
    if (answer.ok) take(await answer.text());
  } catch {
    mode = "lost"; // the clock below says for how long
  }
}

// ---- what is shown

function nowMs() {
  return newest.at_ms + performance.now() - receivedAt;
}

function ago(ms) {
  return span(Math.max(nowMs() - ms, 0) / 1000);
}

function show() {
  showHeadline();
  morph(byId("alerts"), alertList());
  morph(byId("glance"), glance());
  const main = h("main", { id: "main", tabindex: -1 });
  for (const [name, panel] of Object.entries(PANELS)) main.append(panelOf(name, panel));
  morph(byId("main"), main);
  byId("about").textContent =
    `Looks at everything each ${newest.every_s} s. Times are UTC. Console started ` +
    `${moment(newest.started_ms, nowMs())}.`;
}

function showHeadline() {
  const { state, sentence, affected, command, cure, runbook, since_ms: since } = newest.headline;
  const fresh = h("section", { id: "headline", class: "headline", "aria-label": "State of the stack",
                               "data-state": state },
    h("p", { id: "sentence", class: "sentence" },
      h("span", { class: "badge" }, WORDS[state]), " ", sentence),
    since && h("p", null, h("strong", null, "Since "), moment(since, nowMs()),
      h("span", { class: "ago", "data-at": since }, ` (${ago(since)})`)),
    affected && h("p", null, h("strong", null, "Affected: "), affected, "."),
    command && commandOf(command, cure, runbook));
  morph(byId("headline"), fresh);
  const worst = newest.alerts.filter((a) => a.state === "firing").map((a) => a.name);
  const said = `${state} ${[...new Set(worst)].join()}`;
  if (said !== spoken) { // numbers move each two seconds: only what is news is read out
    spoken = said;
    byId("spoken").textContent = `${WORDS[state]}: ${sentence}`;
    document.title = `${WORDS[state]} - Headrace console`;
  }
}

function commandOf(command, cure, runbook) {
  const line = (text) => [h("code", null, text), " ",
    h("button", { type: "button", class: "copy", "data-command": text }, "Copy"), " "];
  return h("p", { class: "do" },
    h("strong", null, cure ? "Do: look " : "Do: "), line(command),
    cure ? [h("strong", null, "then "), line(cure)] : null,
    runbook && h("a", { href: `/runbooks/${encodeURIComponent(runbook)}` }, "Runbook"));
}

function alertList() {
  const list = h("section", { id: "alerts", "aria-label": "Alerts" });
  if (!newest.alerts.length) return list;
  list.append(h("h2", null, `Alerts (${newest.alerts.length})`));
  const items = newest.alerts.map((a) => h("li",
    { "data-key": `${a.name} ${JSON.stringify(a.labels)}`, class: `alert ${level(a)}` },
    h("details", null,
      h("summary", null,
        h("span", { class: "badge" }, WORDS[level(a)]), " ",
        h("strong", null, a.name), " ", labels(a.labels), " ", a.summary, " ",
        h("span", { class: "ago", "data-at": a.since_ms }, `(${ago(a.since_ms)})`)),
      h("p", null, h("strong", null, "Since "), moment(a.since_ms, nowMs()), ", value ",
        String(a.value)),
      h("p", null, h("strong", null, "Affected: "), a.affected, "."),
      commandOf(a.command, a.cure, a.runbook))));
  list.append(h("ul", { class: "plain" }, items));
  return list;
}

function level(alert) {
  return alert.state === "pending" ? "pending" : alert.severity;
}

function labels(of) {
  return Object.entries(of).map(([k, v]) => `${k}=${v}`).join(" ");
}

const ORDER = { page: 0, warn: 1, stale: 2, ok: 3 };

function glance() {
  const found = Object.entries(PANELS).map(([name, panel]) => {
    const of = newest.panels[name];
    return { name, title: panel.title, level: of.level, text: GLANCE[name] ? GLANCE[name](of) : "" };
  });
  found.sort((a, b) => ORDER[a.level] - ORDER[b.level]);
  return h("nav", { id: "glance", "aria-label": "At a glance" }, h("ul", null,
    found.map((one) => h("li", { "data-key": one.name },
      h("a", { href: `#${one.name}`, class: one.level },
        h("span", { class: "badge" }, WORDS[one.level]), " ",
        h("strong", null, one.title), " ", one.text)))));
}

function panelOf(name, panel) {
  const found = newest.panels[name];
  const context = { nowMs: nowMs(), ago };
  let body;
  try {
    body = panel.show(found, context);
  } catch (error) { // one panel that cannot be shown must not take the others with it
    body = h("p", { class: "bad" }, `This panel cannot be shown: ${error.message}`);
  }
  return h("section", { id: name, "data-key": name, class: `panel ${found.level} ${panel.wide ? "wide" : ""}`,
                        "aria-labelledby": `${name}-title`, tabindex: -1 },
    h("h2", { id: `${name}-title` }, panel.title, " ",
      h("span", { class: "badge" }, WORDS[found.level])),
    h("p", { class: found.is_stale ? "age stale" : "age" },
      found.is_stale ? h("strong", null, "Old data: ") : null,
      found.at_ms ? h("span", { class: "ago", "data-at": found.at_ms }, ago(found.at_ms)) : "never seen",
      found.at_ms ? " old" : "", found.why ? ` (${found.why})` : ""),
    h("p", { class: "what" }, panel.what),
    body);
}

// ---- how old all of this is

function tick() {
  if (newest === null) {
    byId("connection").textContent = mode === "lost" ? "no answer from the console" : "connecting";
    return;
  }
  for (const node of document.querySelectorAll(".ago")) {
    const text = ago(Number(node.dataset.at));
    const isBare = !node.textContent.trim().startsWith("(");
    const shown = isBare ? text : ` (${text})`;
    if (node.textContent !== shown) node.textContent = shown;
  }
  const silent = (performance.now() - receivedAt) / 1000;
  const isLost = silent > Math.max(LOST_AFTER * newest.every_s, 5);
  document.body.classList.toggle("is-lost", isLost);
  const lost = byId("lost");
  lost.hidden = !isLost;
  if (!isLost) lost.textContent = "";
  if (isLost) {
    lost.textContent = `\u2716 No news from the console for ${span(silent)}: everything below is old. ` +
      "Is it still running? In a terminal: headrace status, headrace lag";
    if (spoken !== "lost") {
      spoken = "lost";
      byId("spoken").textContent = "Connection to the console is lost: what is shown is old";
      document.title = "old - Headrace console";
    }
  } else if (spoken === "lost") {
    spoken = "";
    showHeadline();
  }
  byId("connection").textContent = isLost
    ? `lost for ${span(silent)}` : `${mode === "live" ? "live" : "polling"}, ${span(silent)} old`;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (button === null) return;
  try {
    await navigator.clipboard.writeText(button.dataset.command);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it";
  }
});

listen();
setInterval(tick, 1000);
