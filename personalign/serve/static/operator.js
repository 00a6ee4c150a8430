/* The page of operators: how many people there are, what was written for them, and what the trial says so far. */

import { Failure, request, tab } from "./api.js";
import { trend } from "./charts.js";
import { byId, element, turnTo } from "./dom.js";
import { hush, tell } from "./notice.js";
import { sentence } from "./words.js";

const KEY = "personalign.operator";
const EVERY_MS = 5000;
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const rate = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
let timer = 0;

/** Look again and again while the page is seen; what fails is said, and looked at again. */
async function look() {
  clearTimeout(timer);
  const key = tab.read(KEY);
  if (!key) return askForKey();
  try {
    if (!document.hidden) show(await request("GET", "v1/operator/summary", { credential: key }));
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    tell(failure.status === 401 ? "This key isn't known, or was revoked" : failure.message);
    if (!failure.canRetry) return leave();
  }
  timer = setTimeout(look, EVERY_MS);
}

function askForKey() {
  byId("leave").hidden = true;
  byId("fresh").textContent = "";
  turnTo(byId("door"), byId("board"));
  byId("key").focus();
}

function leave() {
  clearTimeout(timer);
  tab.write(KEY, null);
  byId("key").value = "";
  askForKey();
}

function show(summary) {
  hush();
  byId("fresh").textContent = `As of ${new Date().toLocaleTimeString()}`;
  byId("leave").hidden = false;
  byId("numbers").replaceChildren(...numbers(summary));
  byId("trends").replaceChildren(...trends(summary.trend));
  byId("trial").replaceChildren(...trial(summary.trial));
  turnTo(byId("board"), byId("door"));
}

function numbers({ people, replies, guided, tokens_per_s: speed, running, waiting }) {
  return [
    number("People", whole.format(people), "known to the store"),
    number("Replies", whole.format(replies), `${whole.format(guided)} under a person's own reward`),
    number("Tokens a second", rate.format(speed), "in the last five to ten minutes"),
    number("Now", whole.format(running), `being written, ${whole.format(waiting)} waiting`),
  ];
}

function number(name, value, words) {
  return element(
    "div",
    { class: "panel" },
    element("dt", {}, name),
    element("dd", { class: "value" }, value),
    element("dd", { class: "soft small" }, words),
  );
}

function trends(rows) {
  const points = (name) => rows.map((row) => ({ at: row.start, value: row[name] }));
  return [
    trend("Tokens a second", points("tokens_per_s"), (value) => rate.format(value)),
    trend("Replies in five minutes", points("replies"), (value) => whole.format(value)),
    trend("Gain a reply", points("gained"), (value) => fine.format(value)),
    trend("KL a token, in nats", points("kl"), (value) => fine.format(value)),
  ];
}

function trial(report) {
  if (!report) return [element("p", { class: "soft" }, "There has been no trial.")];
  const state = report.stopped_at ? "It has been stopped." : "It is running.";
  const count = `${report.people} people have chosen, ${report.waiting} pairs wait for a choice.`;
  const frame = { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ways to write" };
  return [
    element("p", {}, `${state} ${count} ${report.is_known ? "Enough is known." : "Not enough is known yet."}`),
    element("div", frame, armsTable(report.arms)),
    element("ul", { class: "tastes" }, ...report.pairs.map(({ verdict }) => element("li", {}, sentence(verdict)))),
  ];
}

function armsTable(arms) {
  const head = ["Way to write", "Share of wins", "If equally long", "Choices", "Failures"];
  const share = ({ value, low, high }) => `${percent(value)} (${percent(low)} … ${percent(high)})`;
  const rows = arms.map(({ arm, share: wins, even, choices, failures }) => {
    const cells = [share(wins), share(even), whole.format(choices), whole.format(failures)];
    const columns = cells.map((words) => element("td", {}, words));
    return element("tr", {}, element("th", { scope: "row" }, arm), ...columns);
  });
  const titles = head.map((words) => element("th", { scope: "col" }, words));
  return element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows));
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  hush();
  tab.write(KEY, byId("key").value.trim());
  look();
});
byId("leave").addEventListener("click", () => {
  hush();
  leave();
});
document.addEventListener("visibilitychange", () => !document.hidden && tab.read(KEY) && look());
look();
