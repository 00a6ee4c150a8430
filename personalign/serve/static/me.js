/* The page where a person sees what was learnt of them, corrects it, and takes it along or erases it. */

import { axisRow, prominence } from "./axis.js";
import { button, byId, element, turnTo } from "./dom.js";
import { historyItems } from "./history.js";
import { hush } from "./notice.js";
import { enter, read, write } from "./person.js";
import { offerRights } from "./rights.js";
import { statement, tastes } from "./words.js";

const FIRST = 6; // axes that are shown at once
const rows = new Map();
let axes = [];

async function begin() {
  if (!(await enter())) return;
  const profile = await read("profile");
  if (!profile) return;
  axes = profile.axes;
  layRows(profile);
  show(profile);
  offerRights(profile, show, () => turnTo(byId("gone"), byId("profile")));
  turnTo(byId("profile"));
}

function layRows({ axes: all, stated }) {
  const ranked = [...all].sort((one, other) => prominence(other, stated) - prominence(one, stated));
  for (const axis of ranked) rows.set(axis.name, axisRow(axis, stated, (position) => set(axis.name, position)));
  const nodes = ranked.map(({ name }) => rows.get(name).row);
  byId("axes").replaceChildren(...nodes.slice(0, FIRST));
  byId("more-axes").replaceChildren(...nodes.slice(FIRST));
  byId("more").hidden = nodes.length <= FIRST;
  byId("more-words").textContent = `${nodes.length - FIRST} more`;
}

function show(profile) {
  byId("state").textContent = stateInWords(profile);
  byId("tastes").replaceChildren(...tastes(profile).map((line) => element("li", {}, line)));
  for (const axis of profile.axes) rows.get(axis.name)?.renew(axis, profile.stated);
  if (byId("history").open) showHistory();
}

function stateInWords({ answers, paused }) {
  const count = answers === 1 ? "one choice" : `${answers} choices`;
  const source = answers === 0 ? "You have chosen nothing yet." : `From ${count} of yours.`;
  return paused ? `${source} Paused: replies are written as for everybody.` : source;
}

async function set(name, position) {
  hush();
  const profile = await write("set", { positions: { [name]: position } });
  const latest = profile ?? (await read("profile")); // refused, the slider goes back
  if (latest) show(latest);
}

async function say(event) {
  event.preventDefault();
  hush();
  const text = byId("say").value.trim();
  const understood = text && (await write("say", { text }));
  if (!understood) return;
  byId("say").value = "";
  show(understood.profile);
  const lines = understood.understood.map((wish) => {
    const takeBack = async () => {
      await set(wish.axis, null);
      byId("understood").replaceChildren(element("li", { class: "soft" }, "Taken back."));
    };
    const back = button("Take back", "quiet small", takeBack);
    return element("li", {}, element("span", {}, statement(wish, axes)), back);
  });
  const rest = understood.remainder.map((words) => element("li", { class: "soft" }, `Not understood: “${words}”`));
  byId("understood").replaceChildren(...lines, ...rest);
}

async function showHistory() {
  const history = await read("history");
  if (!history) return;
  const items = historyItems(history.events, axes);
  byId("events").replaceChildren(...(items.length ? items : [element("li", { class: "soft" }, "Nothing yet.")]));
}

byId("say-form").addEventListener("submit", say);
byId("history").addEventListener("toggle", () => byId("history").open && showHistory());
begin();
