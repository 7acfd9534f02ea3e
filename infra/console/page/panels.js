// One function a panel: values of the snapshot to elements.

import { bar, bytes, count, DASH, figure, h, line, moment, rate, share, shareBar, span } from "./dom.js";

// An icon and a word for each level: colour is never the only sign.
export const WORDS = {
  ok: "\u2713 well", warn: "\u25b2 warning", page: "\u2716 urgent", stale: "\u25cc old",
  pending: "\u2026 watching", blind: "? nothing watched",
};

const LAG_WARN = 1000;
const LAG_PAGE = 10000;

function table(heads, rows, label) {
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label },
    h("table", null,
      h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", null, rows)));
}

function row(key, ...cells) {
  return h("tr", { "data-key": key }, cells.map((cell, place) =>
    place === 0 ? h("th", { scope: "row" }, cell) : h("td", null, cell)));
}

function none(text) {
  return h("p", { class: "none" }, text);
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.flatMap(([name, value, level]) =>
    [h("div", { class: level || null }, h("dt", null, name), h("dd", null, value))]));
}

function rates(of) {
  const found = Object.entries(of);
  return found.length ? found.map(([name, value]) => `${name || "all"} ${rate(value)}`).join(", ") : DASH;
}

function plot(values, label, form) {
  return h("figure", null, line(values, label, form),
    h("figcaption", null, `${label}, last 15 minutes`));
}

function percentiles(of, first) {
  const names = Object.keys(of);
  if (!names.length) return none("Nothing was observed in the last minute.");
  return table([first, "p50", "p95", "p99", "a second"], names.map((name) => row(name,
    name || "all", span(of[name].p50), span(of[name].p95), span(of[name].p99),
    rate(of[name].per_s))), `percentiles by ${first}`);
}

// ---- panels

function lagLevel(one) {
  if (one.records < 0) return "ok";
  return one.records > LAG_PAGE ? "page" : one.records > LAG_WARN ? "warn" : "ok";
}

function lag(of) {
  const top = Math.max(LAG_PAGE * 10, ...of.rows.map((one) => one.records));
  const rows = of.rows.map((one) => row(`${one.flow}/${one.topic}/${one.partition}`,
    `${one.flow} \u2190 ${one.topic}[${one.partition}]`,
    h("span", { class: `amount ${lagLevel(one)}`, "data-lag": one.records },
      one.records < 0 ? "unknown" : count(one.records),
      lagLevel(one) === "ok" ? "" : ` ${WORDS[lagLevel(one)]}`),
    bar(one.records, top, [LAG_WARN, LAG_PAGE], lagLevel(one)),
    one.records > 0 ? span(one.seconds) : DASH,
    line(one.plot, "records behind", count),
    `${one.committed < 0 ? "never" : count(one.committed)} of ${count(one.end)}`,
    one.source === "applied" ? "the flow" : "its commits"));
  return h("div", null,
    h("p", { class: "big" }, h("strong", { id: "lag-total", "data-lag": of.total }, count(of.total)),
      " records wait", of.total ? `, the oldest for ${span(of.oldest_s)}` : ""),
    plot(of.plot, "records behind, all flows", count),
    rows.length ? table(["flow and partition", "behind", "", "oldest waits", "15 min", "committed",
                         "told by"], rows, "lag by partition")
      : none("No flow and no topic is known yet."));
}

function freshness(of) {
  const probe = of.probe;
  return h("div", null,
    percentiles(of.stages, "stage"),
    plot(of.plot, "p99 to readable rows", span),
    probe
      ? facts([["probe, newest", span(probe.newest_s)], ["probe p50", h("span",
          { id: "probe-p50", "data-s": probe.p50_s }, span(probe.p50_s))],
          ["probe p99", span(probe.p99_s)], ["probes", count(probe.n)]])
      : none(of.is_probed ? "The first probe event is on its way."
          : "No probe events are sent: headrace ops --probe does."));
}

function throughput(of) {
  return h("div", null,
    plot(of.plot, "events applied a second", rate),
    facts([
      ["appended to the log", rates(of.appended)],
      ["events applied, by effect", rates(of.events)],
      ["refused, by reason", rates(of.bad), Object.keys(of.bad).length ? "warn" : null],
      ["late", rate(of.late)], ["clamped", rate(of.clamped)], ["misrouted", rate(of.misrouted)],
      ["rows written, by table", rates(of.rows_written)],
      ["outcomes learnt", rate(of.outcomes_learnt)],
      ["hottest key's share", Object.entries(of.hot_key_share)
        .map(([kind, value]) => `${kind} ${share(value)}`).join(", ") || DASH],
    ]));
}

const LOAD = ["0: all is well", "1: fewer candidates", "2: charts alone", "3: refusals"];

function serving(of) {
  return h("div", null,
    facts([
      ["load level", of.load_level === null ? DASH : LOAD[of.load_level] || of.load_level,
        of.load_level > 0 ? "warn" : null],
      ["calls", rates(of.calls)],
      ["answers that lack something", rates(of.degraded), Object.keys(of.degraded).length ? "warn" : null],
      ["shed, by level", rates(of.shed)], ["refused", rates(of.refused)],
      ["slates given again", share(of.cache_hit_share)],
    ]),
    plot(of.plot, "p95 of calls", span),
    h("h3", null, "By method"), percentiles(shortened(of.methods), "method"),
    h("h3", null, "By stage of Recommend"), percentiles(of.stages, "stage"));
}

function shortened(of) {
  return Object.fromEntries(Object.entries(of).map(([name, value]) => [name.split("/").pop(), value]));
}

function deadLetters(of, context) {
  if (!of.total && !of.newest.length) return none("No record was refused.");
  return h("div", null,
    h("p", { class: "big" }, h("strong", { id: "dead-letters-total" }, count(of.total)),
      " refused records are kept"),
    h("ul", { class: "plain" }, of.kinds.map((one) =>
      h("li", { "data-key": one.kind }, `${count(one.n)} of the newest: `, h("q", null, one.kind)))),
    of.agents && of.agents.by_producer && of.agents.by_producer.length
      ? h("details", { "data-key": "producers" }, h("summary", null, "By producer, from the agents"),
          table(["producer", "refused"], of.agents.by_producer.slice(0, 10).map((one) =>
            row(one.producer, one.producer, count(one.n ?? one.count))), "refused by producer"))
      : null,
    h("h3", null, "The newest"),
    h("ul", { class: "plain letters" }, of.newest.map((one) => letter(one, context))),
    h("p", null, "All of them: ", h("code", null, "headrace dead-letters list"),
      "; once mended: ", h("code", null, "headrace dead-letters redrive --reason TEXT --dry-run")));
}

function letter(one, context) {
  return h("li", { "data-key": `letter-${one.offset}` }, h("details", null,
    h("summary", null, h("span", { class: "mono" }, `#${one.offset}`), " ", one.reason, " ",
      h("span", { class: "ago", "data-at": one.at_ms }, `(${context.ago(one.at_ms)})`)),
    h("p", null, `${one.topic}[${one.partition}] at ${one.place}, key `, h("q", null, one.producer),
      `, ${bytes(one.size)}${one.is_whole ? "" : ", cut"}`),
    one.form === "nothing" ? h("p", null, "Its bytes read as nothing we know.")
      : h("div", null, h("p", null, `Read as ${one.form}:`), h("pre", { tabindex: 0 }, one.decoded)),
    h("pre", { tabindex: 0, class: "dump", "aria-label": "its bytes" }, one.dump || "no bytes")));
}

function dependencies(of, context) {
  const { broker, redis } = of;
  const state = (one) => one.is_up ? "\u2713 up"
    : one.down_since_ms ? `\u2716 down for ${context.ago(one.down_since_ms)}` : "\u2716 not seen";
  const part = redis.memory_limit_bytes ? redis.memory_bytes / redis.memory_limit_bytes : null;
  return h("div", null,
    facts([
      ["broker", state(broker), broker.is_up ? null : "page"],
      ["topics", count(broker.topics)], ["cluster", broker.cluster_id || DASH],
      ["Redis", state(redis), redis.is_up ? null : "page"],
      ["memory", part === null ? DASH
        : `${bytes(redis.memory_bytes)} of ${bytes(redis.memory_limit_bytes)} (${share(part)})`],
      ["policy", redis.policy || DASH, redis.policy && redis.policy !== "noeviction" ? "warn" : null],
      ["keys", count(redis.keys)], ["clients", count(redis.clients)],
      ["commands", rate(redis.commands_per_s)],
      ["errors of processes", rates(of.redis_errors), Object.keys(of.redis_errors).length ? "warn" : null],
    ]),
    [broker, redis].filter((one) => one.error).map((one) => h("p", { class: "bad" }, one.error)),
    part === null ? null : shareBar(part, part > 0.85 ? "warn" : "ok"),
    plot(of.plot, "memory of Redis", bytes));
}

function processes(of, context) {
  if (!of.rows.length) return none("No process is known: headrace up, or HEADRACE_OPS__TARGETS.");
  return table(["process", "state", "told", "started", "restarts", "CPU", "memory"],
    of.rows.map((one) => row(one.name, one.name,
      h("span", { class: one.is_up ? "ok" : "page amount" }, one.is_up ? "\u2713 up"
        : one.answers ? "\u2716 not ready" : `\u2716 silent${one.down_since_ms
            ? ` for ${context.ago(one.down_since_ms)}` : ""}`),
      one.age_s === null ? "never" : `${span(one.age_s)} ago`,
      moment(one.started_ms, context.nowMs), count(one.restarts),
      one.cpu === null ? DASH : share(one.cpu), bytes(one.memory_bytes)))
      .concat(of.missing.map((name) => row(name, name,
        h("span", { class: "page amount" }, "\u2716 not there"), DASH, DASH, DASH, DASH, DASH))),
    "processes");
}

function bandits(of) {
  if (!of.arms.length) return none("No slot was served in the last five minutes.");
  const names = of.arms.map((one) => one.arm);
  return h("div", null,
    h("p", { class: "big" }, h("strong", null, rate(of.slots_per_s)), " slots"),
    table(["arm", "share of slots", "", "taken up", "posterior mean"], of.arms.map((one) => row(
      one.arm, one.arm,
      h("span", { class: one.share > 0.7 ? "warn amount" : null },
        share(one.share), one.share > 0.7 ? ` ${WORDS.warn}` : ""),
      shareBar(one.share, one.share > 0.7 ? "warn" : "ok"), share(one.click_through),
      figure(one.mean))), "arms"),
    of.contexts.length ? h("details", { "data-key": "contexts" },
      h("summary", null, `Posterior means in ${of.contexts.length} contexts`),
      table(["context", ...names], of.contexts.map((one) => row(one.context, one.context,
        ...names.map((name) => figure(one.means[name])))), "means by context")) : null,
    exposures(of.agents));
}

function exposures(agents) {
  const day = agents && agents.days && agents.days[0];
  if (!day) return null;
  return h("details", { "data-key": "exposures" },
    h("summary", null, `Exposures of today, from the agents${day.is_complete ? "" : ", in part"}`),
    table(["policy", "bundle", "arm", "slates", "slots"], day.exposures.slice(0, 20).map((one) =>
      row(`${one.policy} ${one.bundle} ${one.arm}`, one.policy || DASH, one.bundle || DASH, one.arm,
        count(one.slates), count(one.slots))), "exposures"));
}

function slates(of) {
  return facts([
    ["diversity", figure(of.diversity)], ["novelty", of.novelty_bits === null ? DASH
      : `${figure(of.novelty_bits, 1)} bits`],
    ["long tail", share(of.long_tail_share)], ["entropy of genres", of.genre_entropy_bits === null
      ? DASH : `${figure(of.genre_entropy_bits, 2)} bits`],
    ["titles served in an hour", count(of.coverage_titles)], ["Gini over titles", figure(of.gini)],
    ["slots taken up", share(of.click_through)],
  ]);
}

function models(of, context) {
  const servers = Object.entries(of.servers);
  return h("div", null,
    servers.length ? table(["server", "bundle", "its age", "learned state", "its age", "mirror's age",
                            "titles"],
      servers.map(([name, one]) => row(name, name, h("span", { class: "mono" }, one.bundle || DASH),
        span(one.bundle_age_s), count(one.model_sequence), span(one.model_age_s),
        span(one.mirror_age_s), count(one.titles))), "servers and their models")
      : none("No server is known."),
    facts([["learner's version", count(of.learner.sequence)], ["its age", span(of.learner.age_s)],
           ["versions kept", count(of.learner.kept)],
           ...of.losses.map((one) => [`log loss, ${one.series}`, figure(one.log_loss, 4)])]),
    of.bundles.length ? table(["bundle here", "made", "titles", "size", ""], of.bundles.map((one) =>
      row(one.version, h("span", { class: "mono" }, one.version), moment(one.created_at_ms, context.nowMs),
        count(one.titles), bytes(one.bytes), one.problem || (one.is_current ? "\u2713 current"
          : one.is_previous ? "previous: headrace bundles rollback" : ""))), "bundles")
      : none("No bundle lies on this machine: slates are charts."));
}

function drift(of, context) {
  return h("div", null,
    of.found.length ? table(["what", "segment", "times, since the learner began"], of.found.map((one) =>
      row(`${one.what} ${one.segment}`, one.what, one.segment, count(one.n))), "drifts")
      : none("No drift since the learner began."),
    of.history.length ? h("details", { "data-key": "past" },
      h("summary", null, `The last ${of.history.length}, from the log`),
      table(["when", "what", "segment", "before", "after"], of.history.map((one) =>
        row(`${one.at_ms} ${one.name} ${one.labels.segment}`, moment(one.at_ms, context.nowMs),
          one.name, one.labels.segment, one.labels.before, one.labels.after)), "history of drifts"))
      : null);
}

function history(of, context) {
  const when = (one) => [moment(one.at_ms, context.nowMs), " ",
    h("span", { class: "ago", "data-at": one.at_ms }, ` (${context.ago(one.at_ms)})`)];
  const where = (one) => Object.entries(one.labels).map(([k, v]) => `${k}=${v}`).join(" ");
  return h("div", null,
    h("h3", null, "Last deployments"),
    of.deployments.length ? table(["when", "what", "now", "where"], of.deployments.slice(0, 12).map((one) =>
      row(`${one.at_ms} ${one.name} ${where(one)}`, h("span", null, when(one)), one.name, one.state,
        where(one))), "deployments") : none("None is known."),
    h("h3", null, "Alerts that began and ended"),
    of.alerts.length ? table(["when", "alert", "", "where", "value"], of.alerts.slice(0, 20).map((one) =>
      row(`${one.at_ms} ${one.name} ${one.state} ${where(one)}`, h("span", null, when(one)), one.name,
        one.state === "firing" ? "\u2716 began" : "\u2713 ended", where(one), figure(one.value, 2))),
      "alert history") : none("None is known."));
}

export const PANELS = {
  lag: { title: "Lag", wide: true, show: lag,
    what: "Records that the log has and a flow has not applied. Marks: 1,000 and 10,000." },
  freshness: { title: "Freshness", show: freshness,
    what: "From the log's receipt of an event: applied, readable in Redis, in a slate. Last minute." },
  throughput: { title: "Throughput", show: throughput, what: "What comes in and what becomes of it." },
  serving: { title: "Serving", show: serving, what: "Calls and how long they take. Last minute." },
  dependencies: { title: "Broker and Redis", show: dependencies, what: "Asked by the console itself." },
  processes: { title: "Processes", wide: true, show: processes,
    what: "Each is asked for its metrics every two seconds." },
  dead_letters: { title: "Dead letters", wide: true, show: deadLetters,
    what: "Records that are no events, with their bytes. Text of strangers: shown, never run." },
  bandits: { title: "Bandit arms", show: bandits, what: "Shares of slots served. Last five minutes." },
  slates: { title: "Slates", show: slates, what: "What slates are like. Last five minutes." },
  models: { title: "Models", wide: true, show: models,
    what: "Which bundle and which learned state are in use." },
  drift: { title: "Drift", wide: true, show: drift, what: "Changes in how viewers answer." },
  history: { title: "What happened", wide: true, show: history,
    what: "Deployments and alerts, the newest first." },
};

// A few words for each panel in the list on top.
export const GLANCE = {
  lag: (of) => `${count(of.total)} wait`,
  freshness: (of) => of.stages.servable ? `p99 ${span(of.stages.servable.p99)}` : "",
  throughput: (of) => rate(Object.values(of.events).reduce((a, b) => a + b, 0)),
  serving: (of) => of.load_level ? `load level ${of.load_level}` : "",
  dead_letters: (of) => count(of.total),
  dependencies: (of) => [of.broker.is_up ? null : "broker down", of.redis.is_up ? null : "Redis down"]
    .filter(Boolean).join(", "),
  processes: (of) => `${of.rows.filter((one) => one.is_up).length} of ${of.rows.length + of.missing.length} up`,
  drift: (of) => of.found.length ? `${of.found.length} found` : "",
  history: () => "",
};
