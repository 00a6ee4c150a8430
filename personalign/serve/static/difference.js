/* "See the difference": the person's own prompt, answered by the model alone and as they like it. */

import { card } from "./cards.js";
import { button, element, toggle } from "./dom.js";
import { hush } from "./notice.js";
import { write } from "./person.js";

const PATIENCE_MS = 180_000; // two whole replies, on a slow machine
const MAX_TOKENS = 160;
const INVITATION =
  "Ask something of your own. It is answered twice: as the model writes by itself, and as you like it.";
const ALIKE = "Both came out the same this time. Try another request.";
const PLAIN = { key: "plain", tag: "Without your choices" };
const PERSONAL = { key: "personal", tag: "With your choices" };

/** Put the form into its place. */
export function offerDifference(place) {
  let isBlind = false;
  const prompt = element("textarea", { id: "own", rows: "2", maxlength: "4000", required: true });
  const send = element("button", { type: "submit", class: "primary" }, "Write both replies");
  const answers = element("div", { class: "replies" });
  const verdict = element("p", { class: "changes", role: "status" });
  const compare = async (event) => {
    event.preventDefault();
    hush();
    send.disabled = true;
    verdict.textContent = "Writing…";
    answers.replaceChildren(waiting(), waiting());
    const body = { messages: [{ role: "user", content: prompt.value.trim() }], max_tokens: MAX_TOKENS };
    const replies = prompt.value.trim() && (await write("preview", body, PATIENCE_MS));
    send.disabled = false;
    verdict.textContent = "";
    answers.replaceChildren();
    if (replies) showBoth(answers, verdict, replies, isBlind);
  };
  place.replaceChildren(
    element("h2", {}, "See the difference"),
    element("p", { class: "soft" }, INVITATION),
    element(
      "form",
      { class: "ask", submit: compare },
      element("label", { for: "own" }, "What would you like to ask?"),
      prompt,
      element(
        "div",
        { class: "row" },
        send,
        toggle("Don't tell me which is which until I have chosen", false, (isOn) => {
          isBlind = isOn;
        }),
      ),
    ),
    verdict,
    answers,
  );
}

function waiting() {
  return element("div", { class: "card waiting", "aria-hidden": "true" }, element("i"), element("i"), element("i"));
}

function showBoth(answers, verdict, replies, isBlind) {
  if (replies.plain === replies.personal) verdict.textContent = ALIKE;
  const sides = isBlind && coin() ? [PERSONAL, PLAIN] : [PLAIN, PERSONAL];
  const cards = sides.map((side, place) => {
    const like = () => {
      reveal(cards, sides);
      verdict.textContent = `You chose the reply ${side.tag.toLowerCase()}.`;
    };
    const buttons = isBlind ? [button("I like this one better", "primary", like)] : [];
    return card(place + 1, replies[side.key], ...buttons);
  });
  if (!isBlind) reveal(cards, sides);
  answers.replaceChildren(...cards);
}

function reveal(cards, sides) {
  cards.forEach((node, place) => {
    const side = sides[place];
    const tag = element("span", { class: side === PERSONAL ? "tag set" : "tag" }, side.tag);
    node.setAttribute("aria-label", side.tag);
    node.querySelector(".number").replaceWith(tag);
    node.querySelector(".actions").remove();
  });
}

function coin() {
  return crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 0;
}
