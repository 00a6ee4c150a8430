/* Replies as cards, side by side or below each other, with the buttons that choose among them. */

import { element } from "./dom.js";
import { prose } from "./prose.js";

export const LETTERS = "abcd";

/** A conversation, as chats show it. */
export function thread(messages) {
  return messages.map(({ role, content }) =>
    element("div", { class: `message ${role}` }, element("span", { class: "who" }, WHO[role] ?? role), ...prose(content)),
  );
}

/** One reply with its number and its buttons. */
export function card(number, text, ...buttons) {
  return element(
    "article",
    { class: "card", "aria-label": `Reply ${number}` },
    element("div", { class: "number", "aria-hidden": "true" }, `${number}`),
    element("div", { class: "prose" }, ...prose(text)),
    element("div", { class: "actions" }, ...buttons),
  );
}

/** The cards of a question: `choose` is told "a", or "a++"; of several cards `mark` is told which is the worst. */
export function questionCards({ replies, graded }, choose, mark) {
  return replies.map((text, place) => {
    const [number, letter] = [place + 1, LETTERS[place]];
    return card(number, text, ...buttons(number, letter, replies.length > 2, graded, choose, mark));
  });
}

/** Show which card is marked: as the better one, or as the worst. */
export function showMark(cards, name, marked) {
  cards.forEach((node, place) => {
    const isMarked = LETTERS[place] === marked;
    node.classList.toggle(name, isMarked);
    node.querySelector(`button.${name}`)?.setAttribute("aria-pressed", `${isMarked}`);
  });
}

const WHO = { user: "You", assistant: "Assistant", system: "The assistant was told" };

function buttons(number, letter, isPick, graded, choose, mark) {
  const key = element("kbd", { "aria-hidden": "true" }, `${number}`);
  const name = { "aria-label": `Reply ${number} is ${isPick ? "the best" : graded ? "better" : "the better one"}` };
  const words = isPick ? "The best" : graded ? "Better" : "This one";
  const best = element("button", { type: "button", class: "primary better", ...name, click: () => choose(letter) }, words, key);
  if (isPick) {
    const worst = { type: "button", class: "worst", "aria-pressed": "false", "aria-label": `Reply ${number} is the worst` };
    return [best, element("button", { ...worst, click: () => mark(letter) }, "Worst")];
  }
  if (!graded) return [best];
  const much = { type: "button", class: "much", "aria-label": `Reply ${number} is much better` };
  return [best, element("button", { ...much, click: () => choose(`${letter}++`) }, "Much better")];
}
