/* The page that asks: one question after another, until enough is known. Then it shows what that changed. */

import { tab } from "./api.js";
import { LETTERS, questionCards, showMark, thread } from "./cards.js";
import { offerDifference } from "./difference.js";
import { button, byId, element, toggle, turnTo } from "./dom.js";
import { hush } from "./notice.js";
import { enter, read, write } from "./person.js";
import { sentence, shortly, tastes } from "./words.js";

const TWICE_MS = 450; // within which a second press of a key means "much better"
const WIDE = "(min-width: 900px)"; // where four replies fit
const sections = { start: byId("start"), asking: byId("asking"), done: byId("done") };
const state = { question: null, isSending: false, worst: null, pressed: null, timer: 0 };
const wishes = {
  graded: tab.read("personalign.graded") === "true",
  keys: tab.read("personalign.keys") !== "false",
};

async function begin() {
  if (!(await enter())) return;
  byId("profile-link").hidden = false;
  const profile = await read("profile");
  if (profile?.answers) await next();
  else if (profile) turnTo(sections.start, sections.asking, sections.done);
}

/** Ask for the question that is open, or for the next one, and show it. */
async function next(consent) {
  const wish = { graded: wishes.graded, replies: numReplies() };
  const answer = await read(`question?${new URLSearchParams(consent ? { ...wish, consent } : wish)}`);
  if (!answer) return;
  if (answer.question) ask(answer);
  else await finish(answer);
}

function numReplies() {
  const wished = Number(new URLSearchParams(location.search).get("replies"));
  if (wished >= 2 && wished <= LETTERS.length) return Math.floor(wished);
  return matchMedia(WIDE).matches ? LETTERS.length : 2;
}

function ask({ question, answered, most }) {
  Object.assign(state, { question, worst: null, pressed: null });
  byId("count").textContent = `Question ${answered + 1} of ${Math.max(most, answered + 1)} at most`;
  Object.assign(byId("progress"), { max: Math.max(most, 1), value: answered });
  byId("undo").hidden = answered === 0;
  const isPick = question.replies.length > 2;
  byId("title").textContent = isPick ? "Which reply do you like best?" : "Which reply do you like better?";
  byId("hint").textContent = isPick ? "If one is clearly the worst, mark it first." : "";
  byId("prompt").replaceChildren(...thread(question.prompt));
  byId("replies").replaceChildren(...questionCards(question, choose, mark));
  byId("replies").dataset.number = question.replies.length;
  byId("others").replaceChildren(...otherChoices(isPick));
  turnTo(sections.asking, sections.start, sections.done);
  scrollTo({ top: 0 });
  byId("title").focus({ preventScroll: true });
}

function otherChoices(isPick) {
  const key = element("kbd", { "aria-hidden": "true" }, "0");
  const offer = (choice, words, ...more) => button(words, "quiet", () => choose(choice), {}, ...more);
  if (isPick) return [offer("neither", "None of them", key), offer("skip", "Skip")];
  return [offer("tie", "About the same", key), offer("neither", "Neither is good"), offer("skip", "Skip")];
}

/** Send a choice, say what it changed, and go on. */
async function choose(choice) {
  if (!state.question || state.isSending) return;
  clearTimeout(state.timer);
  const isBest = LETTERS.includes(choice) && state.worst && state.worst !== choice;
  const sent = isBest ? `${choice}>${state.worst}` : choice;
  await change("answers", { question: state.question.id, choice: sent });
}

async function undo() {
  if (!state.isSending) await change("undo");
}

async function change(path, body) {
  hush();
  state.isSending = true;
  byId("asking").setAttribute("aria-busy", "true");
  const profile = await write(path, body);
  if (profile) showChanges(path === "undo" ? "Taken back." : "Noted.", profile.changes);
  await next();
  byId("asking").removeAttribute("aria-busy");
  state.isSending = false;
}

function showChanges(start, changes) {
  byId("changes").textContent = `${start} ${shortly(changes)}`;
  byId("changes-more").hidden = changes.length === 0;
  byId("changes-list").replaceChildren(...changes.map((line) => element("li", {}, sentence(line))));
}

/** Of several cards: this one is the worst, or isn't after all. */
function mark(letter) {
  state.worst = state.worst === letter ? null : letter;
  showMark([...byId("replies").children], "worst", state.worst);
}

function pressKey(event) {
  const digit = /^(?:Digit|Numpad)([0-4])$/.exec(event.code)?.[1];
  const isTyping = event.target.closest("textarea, input:not([type=checkbox])");
  const isOurs = wishes.keys && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping;
  if (!digit || !isOurs || sections.asking.hidden || state.isSending) return;
  const isPick = state.question.replies.length > 2;
  const letter = LETTERS[digit - 1];
  if (digit === "0") choose(isPick ? "neither" : "tie");
  else if (Number(digit) > state.question.replies.length) return;
  else if (isPick && event.shiftKey) mark(letter);
  else if (state.question.graded) pressTwice(letter);
  else choose(letter);
}

function pressTwice(letter) {
  clearTimeout(state.timer);
  if (state.pressed === letter) {
    choose(`${letter}++`);
    return;
  }
  state.pressed = letter;
  showMark([...byId("replies").children], "better", letter);
  state.timer = setTimeout(() => choose(letter), TWICE_MS);
}

async function finish({ stopped, answered }) {
  state.question = null;
  const profile = await read("profile");
  if (!profile) return;
  byId("stopped").textContent = stopped ? sentence(`No more questions: ${stopped}`) : "";
  byId("tastes").replaceChildren(...tastes(profile).map((line) => element("li", {}, line)));
  byId("undo-last").hidden = answered === 0;
  if (sections.done.hidden) offerDifference(byId("difference"));
  turnTo(sections.done, sections.start, sections.asking);
  byId("done-title").focus();
}

function offerOptions() {
  const grades = toggle("Let me say how much better", wishes.graded, async (isOn) => {
    wishes.graded = isOn;
    tab.write("personalign.graded", `${isOn}`);
    if (state.question && !state.isSending) await next();
  });
  const keys = toggle("Choose by the keys 1 to 4 and 0", wishes.keys, (isOn) => {
    wishes.keys = isOn;
    tab.write("personalign.keys", `${isOn}`);
    document.body.classList.toggle("keyless", !isOn);
  });
  document.body.classList.toggle("keyless", !wishes.keys);
  byId("options").replaceChildren(grades, keys, element("p", { class: "soft" }, KEYS));
}

const KEYS =
  "1 and 2 choose a reply, 0 is for about the same. Where you say how much: press twice for much better. Of four " +
  "replies 1 to 4 choose the best one, with Shift they mark the worst.";

byId("begin").addEventListener("click", () => {
  hush();
  next(byId("consent").textContent);
});
byId("undo").addEventListener("click", undo);
byId("undo-last").addEventListener("click", undo);
document.addEventListener("keydown", pressKey);
offerOptions();
begin();
