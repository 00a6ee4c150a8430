/* Draws what is known of an axis, and how a number went over a day. */

import { element, svg } from "./dom.js";

/** What is known on one axis from −1 to 1: a band of one deviation to either side; the slider over it is the mean. */
export function belief(mean, deviation, words) {
  const middle = Math.max(-1, Math.min(1, mean));
  const [low, high] = [percent(middle - deviation), percent(middle + deviation)];
  return svg(
    "svg",
    { class: "belief", role: "img", "aria-label": words },
    svg("line", { class: "rail", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
    svg("line", { class: "zero", x1: "50%", x2: "50%", y1: "20%", y2: "80%" }),
    svg("rect", { class: "band", x: `${low}%`, width: `${high - low}%`, y: "32%", height: "36%", rx: 5 }),
  );
}

/** One number over time, with its newest and its largest value in words. Gaps are where nothing was measured. */
export function trend(title, points, format) {
  const values = points.map(({ value }) => value).filter((value) => value !== null);
  const newest = values.length ? format(values.at(-1)) : "–";
  const ends = values.length ? [clock(points[0].at), clock(points.at(-1).at)] : [];
  return element(
    "figure",
    { class: "panel trend" },
    element("figcaption", {}, element("h3", {}, title), element("strong", {}, newest)),
    values.length ? line(points, values, `${title}: ${newest}`) : element("p", { class: "soft small" }, "Nothing yet"),
    element("p", { class: "soft small span" }, ...ends),
  );
}

function line(points, values, words) {
  const [first, last] = [points[0].at, points.at(-1).at];
  const [bottom, top] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
  const place = ({ at, value }) => [
    last > first ? (300 * (at - first)) / (last - first) : 300,
    78 - (74 * (value - bottom)) / (top - bottom),
  ];
  let pen = "M";
  let path = "";
  for (const point of points) {
    if (point.value === null) pen = "M";
    else {
      path += `${pen}${place(point).map((number) => number.toFixed(1)).join(" ")}`;
      pen = "L";
    }
  }
  const picture = { viewBox: "0 0 300 80", preserveAspectRatio: "none", role: "img", "aria-label": words };
  const zero = 78 + (74 * bottom) / (top - bottom);
  const base = svg("line", { class: "base", x1: 0, x2: 300, y1: zero, y2: zero });
  return svg("svg", picture, base, svg("path", { class: "curve", d: path.includes("L") ? path : `${path}h0` }));
}

function clock(at) {
  const words = new Date(1000 * at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return element("span", {}, words);
}

function percent(position) {
  return 50 + 50 * Math.max(-1, Math.min(1, position));
}
