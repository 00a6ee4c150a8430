/* What a person chose and stated, the newest first. */

import { LETTERS, thread } from "./cards.js";
import { element } from "./dom.js";
import { prose } from "./prose.js";
import { statement } from "./words.js";

const KINDS = {
  check: "asked again",
  edit: "you edited a reply",
  thumbs: "your thumb on a reply",
  regenerate: "you asked for another reply",
  trial: "a comparison of two replies",
};
const CHOICES = { tie: "About the same", neither: "None was good", skip: "Skipped" };

/** A list item for each event. */
export function historyItems(events, axes) {
  return events.map((event) => (event.event === "answer" ? answerItem(event) : statementItem(event, axes)));
}

function answerItem(event) {
  const remark = [KINDS[event.kind], event.undone_at && "taken back"].filter(Boolean).join(", ");
  const title = element("span", {}, choiceInWords(event.choice ?? ""), remark ? ` (${remark})` : "");
  const chosen = LETTERS.indexOf((event.choice ?? "").charAt(0));
  const replies = event.replies.map((text, place) =>
    element(
      "div",
      { class: place === chosen && !CHOICES[event.choice] ? "end chosen" : "end" },
      element("p", { class: "soft small" }, `Reply ${place + 1}`),
      element("div", { class: "prose" }, ...prose(text)),
    ),
  );
  return element(
    "li",
    { class: event.undone_at ? "undone" : null },
    element(
      "details",
      {},
      element("summary", {}, title, time(event.time)),
      element("div", { class: "thread" }, ...thread(event.prompt)),
      element("div", { class: "pair" }, ...replies),
    ),
  );
}

function statementItem(event, axes) {
  const isOver = event.holds === false || event.position === null;
  const words = event.position === null ? "A point was left to what is learnt." : statement(event, axes);
  const line = element("p", { class: "line" }, element("span", {}, words), time(event.time));
  return element("li", { class: isOver ? "undone" : null }, line);
}

function choiceInWords(choice) {
  if (CHOICES[choice]) return CHOICES[choice];
  const [best, worst] = choice.split(">");
  const number = (letter) => LETTERS.indexOf(letter.charAt(0)) + 1;
  const degree = best.endsWith("++") ? "much better" : best.endsWith("+") ? "a little better" : "better";
  return worst ? `Reply ${number(best)} best, reply ${number(worst)} worst` : `Reply ${number(best)} ${degree}`;
}

function time(at) {
  const words = new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return element("time", { datetime: at, class: "soft small" }, words);
}
