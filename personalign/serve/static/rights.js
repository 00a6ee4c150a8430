/* What a person may always do with what is stored of them: pause, take it along, erase it. */

import { byId, toggle } from "./dom.js";
import { hush } from "./notice.js";
import { erase, leave, read, write } from "./person.js";

const WORD = "erase"; // to be typed before everything is erased

/** Offer all three; `onChange` is told the profile after a change, `onErased` that there is none any more. */
export function offerRights(profile, onChange, onErased) {
  const pause = toggle("Write replies for me", !profile.paused, async (isOn) => {
    hush();
    const renewed = await write(isOn ? "resume" : "pause");
    if (renewed) onChange(renewed);
    else pause.querySelector("input").checked = !isOn;
  });
  byId("pause").replaceChildren(pause);
  byId("export").addEventListener("click", download);
  byId("erase").addEventListener("click", ask);
  byId("erase-word").addEventListener("input", () => {
    byId("erase-really").disabled = !isTyped();
  });
  byId("erase-cancel").addEventListener("click", () => byId("erase-dialog").close());
  byId("erase-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!isTyped()) return;
    byId("erase-dialog").close();
    if (await erase()) {
      leave();
      onErased();
    }
  });
}

function ask() {
  hush();
  byId("erase-word").value = "";
  byId("erase-really").disabled = true;
  byId("erase-dialog").showModal();
}

function isTyped() {
  return byId("erase-word").value.trim().toLowerCase() === WORD;
}

async function download() {
  hush();
  const everything = await read("export");
  if (!everything) return;
  const file = new Blob([JSON.stringify(everything, null, 2)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = "personalign-my-data.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
