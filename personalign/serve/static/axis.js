/* One axis of a person's taste: what was learnt, a slider to set it, and an example of both ends. */

import { thread } from "./cards.js";
import { belief } from "./charts.js";
import { button, element } from "./dom.js";
import { prose } from "./prose.js";
import { direction, title } from "./words.js";

const SETTLED_MS = 350; // after the last move of a slider it is sent
const HINT = 0.5; // deviations from zero from which on something is known; `personalign.words` names it there, too
const CLEAR = 1;

/** A row for an axis; `set` is told a position, or null for what was learnt. It gives the row and how to renew it. */
export function axisRow(axis, stated, set) {
  const picture = element("div", { class: "picture" });
  const slider = element("input", { type: "range", min: -1, max: 1, step: 0.05, "aria-label": title(axis.about) });
  const tag = element("span", { class: "tag" });
  const reset = button("Back to what was learnt", "quiet small", () => set(null));
  let timer = null; // until the slider's position is sent
  slider.addEventListener("input", () => {
    describe(slider, axis, true);
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = null;
      set(Number(slider.value));
    }, SETTLED_MS);
  });
  const ends = [axis.low, axis.high].map((words) => element("span", {}, words));
  const row = element(
    "li",
    { class: "axis", "data-axis": axis.name },
    element("div", { class: "row between" }, element("h3", {}, title(axis.about)), tag),
    element("div", { class: "track" }, picture, slider),
    element("div", { class: "ends", "aria-hidden": "true" }, ...ends),
    element("div", { class: "row between foot" }, example(axis), reset),
  );
  const renew = (renewed, statements) => {
    const source = sourceOf(renewed, statements);
    const { mean, deviation, unit } = renewed;
    picture.replaceChildren(belief(mean / unit, deviation / unit, spokenBelief(renewed)));
    if (timer === null) {
      slider.value = renewed.position ?? Math.max(-1, Math.min(1, mean / unit));
      describe(slider, renewed, renewed.position !== null);
    }
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
  const wish = statements.find((one) => one.axis === axis.name && one.kind === "said");
  if (axis.position !== null) return { words: "set by you", isStated: true };
  if (wish) return { words: `you said “${wish.words}”`, isStated: true };
  const surety = Math.abs(axis.mean) / axis.deviation;
  return { words: surety >= CLEAR ? "learnt" : surety >= HINT ? "a first hint" : "open", isStated: false };
}

function spokenBelief(axis) {
  const size = (number) => `${Math.round((100 * Math.abs(number)) / axis.unit)} %`;
  return `Known: ${size(axis.mean)} of the way to ${direction(axis.mean, axis)}, give or take ${size(axis.deviation)}`;
}

function describe(slider, axis, isSet) {
  const share = Math.round(100 * Math.abs(slider.value));
  const words = share === 0 ? "in the middle" : `${share} % towards ${direction(Number(slider.value), axis)}`;
  slider.setAttribute("aria-valuetext", isSet ? `${words}, set by you` : `${words}, as learnt`);
}

function example({ example: pair, low, high }) {
  if (!pair) return element("span");
  const end = (words, text) => {
    const title = element("p", { class: "soft small" }, words);
    return element("div", { class: "end" }, title, element("div", { class: "prose" }, ...prose(text)));
  };
  return element(
    "details",
    {},
    element("summary", { class: "small" }, "Example"),
    element("div", { class: "thread" }, ...thread(pair.prompt)),
    element("div", { class: "pair" }, end(low, pair.low), end(high, pair.high)),
  );
}
