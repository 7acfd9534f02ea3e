// Elements from values. Text is only ever set as text, so nothing that the log holds can run.

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "rect", "line", "polyline", "title", "path"]);

/** An element: `h("p", {class: "big"}, "text", other)`. Attributes that are null are left out. */
export function h(name, attributes, ...children) {
  const made = SVG_NAMES.has(name)
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(key, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      made.append(child instanceof Node ? child : String(child));
    }
  }
  return made;
}

/** Puts the children of `fresh` in place of those of `old`, leaving alone what stays the same:
 *  focus, selections and what was opened survive. */
export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  sameAttributes(old, fresh);
  sameChildren(old, fresh);
}

function sameAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    const isKept = name === "open" && old.nodeName === "DETAILS";
    if (!fresh.hasAttribute(name) && !isKept) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

export function sameChildren(old, fresh) {
  const keyed = new Map();
  for (const child of old.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const match = matching(child, at, keyed);
    if (match === null) {
      old.insertBefore(child, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    morph(match, child);
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function keyOf(node) {
  return node.dataset ? node.dataset.key : undefined;
}

function matching(child, at, keyed) {
  const key = keyOf(child);
  if (key) {
    const known = keyed.get(key);
    return known && known.nodeName === child.nodeName ? known : null;
  }
  return at !== null && !keyOf(at) && at.nodeName === child.nodeName ? at : null;
}

// ---- figures as people read them

export const DASH = "\u2013";

export function count(value) {
  if (value === null || value === undefined) return DASH;
  return Math.round(value).toLocaleString("en");
}

export function rate(value) {
  if (value === null || value === undefined) return DASH;
  if (value !== 0 && value < 10) return `${value.toFixed(2)}/s`;
  return `${count(value)}/s`;
}

export function share(value) {
  return value === null || value === undefined ? DASH : `${(100 * value).toFixed(1)} %`;
}

export function figure(value, digits = 3) {
  return value === null || value === undefined ? DASH : value.toFixed(digits);
}

/** Seconds as a length of time: 3.2 ms, 12 s, 4 min, 2 h. */
export function span(seconds) {
  if (seconds === null || seconds === undefined || seconds < 0) return DASH;
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${(1e6 * seconds).toFixed(0)} \u00b5s`;
  if (seconds < 1) return `${(1e3 * seconds).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(unit && value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** A moment as a clock tells it, in UTC, with the day where it is another one. */
export function moment(ms, nowMs) {
  if (!ms) return DASH;
  const text = new Date(ms).toISOString();
  const isToday = text.slice(0, 10) === new Date(nowMs).toISOString().slice(0, 10);
  return isToday ? `${text.slice(11, 19)} UTC` : `${text.slice(0, 10)} ${text.slice(11, 16)} UTC`;
}

// ---- pictures

/** The last fifteen minutes as a line. */
export function line(values, label, show) {
  const known = values.filter((v) => v !== null);
  const top = Math.max(...known, 1e-9);
  const said = known.length
    ? `${label}, last 15 minutes: at most ${show(Math.max(...known))}, now ${show(known.at(-1))}`
    : `${label}: nothing yet`;
  const parts = [];
  let points = [];
  values.forEach((value, place) => {
    if (value === null) {
      if (points.length) parts.push(points);
      points = [];
    } else {
      points.push(`${place * 2},${(22 - 20 * value / top).toFixed(1)}`);
    }
  });
  if (points.length) parts.push(points);
  return h("svg", { class: "line", viewBox: "0 0 120 24", preserveAspectRatio: "none", role: "img",
                    "aria-label": said },
    h("title", null, said),
    parts.map((p) => h("polyline", { points: (p.length > 1 ? p : [p[0], p[0]]).join(" ") })));
}

/** A bar on a logarithmic scale up to `top`, with marks at some values. */
export function bar(value, top, marks, level) {
  const at = (v) => 100 * Math.log10(1 + Math.max(v, 0)) / Math.log10(1 + top);
  return h("svg", { class: `bar ${level}`, viewBox: "0 0 100 8", preserveAspectRatio: "none",
                    "aria-hidden": "true" },
    h("rect", { class: "back", width: 100, height: 8 }),
    h("rect", { class: "front", width: at(value).toFixed(1), height: 8 }),
    marks.map((m) => h("line", { x1: at(m).toFixed(1), x2: at(m).toFixed(1), y1: 0, y2: 8 })));
}

/** A bar of a share. */
export function shareBar(value, level) {
  return h("svg", { class: `bar ${level}`, viewBox: "0 0 100 8", preserveAspectRatio: "none",
                    "aria-hidden": "true" },
    h("rect", { class: "back", width: 100, height: 8 }),
    h("rect", { class: "front", width: (100 * Math.min(value || 0, 1)).toFixed(1), height: 8 }));
}
