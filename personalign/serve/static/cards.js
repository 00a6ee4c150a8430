/* Replies as cards, side by side or below each other, with the buttons that choose among them. */

import { button, element } from "./dom.js";
import { prose } from "./prose.js";

export const LETTERS = "abcd";

/** A conversation, as chats show it. */
export function thread(messages) {
  return messages.map(({ role, content }) => {
    const who = element("span", { class: "who" }, WHO[role] ?? role);
    return element("div", { class: `message ${role}` }, who, ...prose(content));
  });
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
  const offer = (words, name, choice) =>
    button(words, "primary better", () => choose(choice), { "aria-label": name }, key);
  if (isPick) {
    const worst = { "aria-pressed": "false", "aria-label": `Reply ${number} is the worst` };
    const marker = button("Worst", "worst", () => mark(letter), worst);
    return [offer("The best", `Reply ${number} is the best`, letter), marker];
  }
  if (!graded) return [offer("This one", `This one: reply ${number}`, letter)];
  const much = { "aria-label": `Reply ${number} is much better` };
  const best = offer("Better", `Reply ${number} is better`, letter);
  return [best, button("Much better", "much", () => choose(`${letter}++`), much)];
}
