/* One axis of a person's taste: what was learnt, a slider to set it, and an example of both ends. */

import { thread } from "./cards.js";
import { belief } from "./charts.js";
import { element } from "./dom.js";
import { prose } from "./prose.js";
import { title, towards } from "./words.js";

const SETTLED_MS = 350; // after the last move of a slider it is sent
const HINT = 0.5; // deviations from zero from which on something is known; `personalign.words` names it there, too
const CLEAR = 1;

/** A row for an axis; `set` is told a position, or null for what was learnt. It gives the row and how to renew it. */
export function axisRow(axis, stated, set) {
  const picture = element("div", { class: "picture" });
  const slider = element("input", { type: "range", min: -1, max: 1, step: 0.05, "aria-label": title(axis.about) });
  const tag = element("span", { class: "tag" });
  const reset = element("button", { type: "button", class: "quiet small", click: () => set(null) }, "Back to what was learnt");
  let timer = 0;
  slider.addEventListener("input", () => {
    describe(slider, axis, true);
    clearTimeout(timer);
    timer = setTimeout(() => set(Number(slider.value)), SETTLED_MS);
  });
  const row = element(
    "li",
    { class: "axis", "data-axis": axis.name },
    element("div", { class: "row between" }, element("h3", {}, title(axis.about)), tag),
    element("div", { class: "track" }, picture, slider),
    element("div", { class: "ends", "aria-hidden": "true" }, element("span", {}, axis.low), element("span", {}, axis.high)),
    element("div", { class: "row between foot" }, example(axis), reset),
  );
  const renew = (renewed, statements) => {
    clearTimeout(timer);
    const source = sourceOf(renewed, statements);
    picture.replaceChildren(belief(renewed.mean / renewed.unit, renewed.deviation / renewed.unit, inWords(renewed)));
    slider.value = renewed.position ?? Math.max(-1, Math.min(1, renewed.mean / renewed.unit));
    describe(slider, renewed, renewed.position !== null);
    row.classList.toggle("is-set", renewed.position !== null);
    tag.textContent = source.words;
    tag.classList.toggle("set", source.isStated);
    reset.hidden = !source.isStated;
  };
  renew(axis, stated);
  return { row, renew };
}

/** How far an axis stands out: what the person stated comes first, then what is surest. */
export function prominence(axis, stated) {
  return stated.some((one) => one.axis === axis.name) ? Infinity : Math.abs(axis.mean) / axis.deviation;
}

function sourceOf(axis, statements) {
  const said = statements.find((one) => one.axis === axis.name && one.kind === "said");
  if (axis.position !== null) return { words: "set by you", isStated: true };
  if (said) return { words: `you said “${said.words}”`, isStated: true };
  const surety = Math.abs(axis.mean) / axis.deviation;
  return { words: surety >= CLEAR ? "learnt" : surety >= HINT ? "a first hint" : "open", isStated: false };
}

function inWords(axis) {
  const size = (number) => `${Math.round((100 * Math.abs(number)) / axis.unit)} %`;
  return `Known: ${size(axis.mean)} of the way to ${towards(axis.mean, axis)}, give or take ${size(axis.deviation)}`;
}

function describe(slider, axis, isSet) {
  const share = Math.round(100 * Math.abs(slider.value));
  const words = share === 0 ? "in the middle" : `${share} % towards ${towards(Number(slider.value), axis)}`;
  slider.setAttribute("aria-valuetext", isSet ? `${words}, set by you` : `${words}, as learnt`);
}

function example({ example: shown, low, high }) {
  if (!shown) return element("span");
  const end = (words, text) =>
    element("div", { class: "end" }, element("p", { class: "soft small" }, words), element("div", { class: "prose" }, ...prose(text)));
  return element(
    "details",
    {},
    element("summary", { class: "small" }, "Example"),
    element("div", { class: "thread" }, ...thread(shown.prompt)),
    element("div", { class: "pair" }, end(low, shown.low), end(high, shown.high)),
  );
}
