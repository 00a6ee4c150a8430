/* Says what went wrong, and lets the person try again. The page has an element "notice" with the role "alert". */

import { Failure } from "./api.js";
import { button, byId, element } from "./dom.js";
import { sentence } from "./words.js";

/** Say something at the top of the page until something else is done. */
export function tell(words, ...actions) {
  const notice = byId("notice");
  notice.replaceChildren(element("p", {}, sentence(words)), ...actions);
  notice.hidden = false;
}

/** Take back what was said. */
export function hush() {
  byId("notice").hidden = true;
  byId("notice").replaceChildren();
}

/**
 * Do what may fail until it succeeds: the person says when to try again.
 *
 * A refusal, where trying again can't help, is said in words, and null comes back.
 */
export async function insist(attempt, { inWords = (failure) => failure.message } = {}) {
  for (;;) {
    try {
      return await attempt();
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      if (!failure.canRetry) {
        tell(inWords(failure));
        return null;
      }
      await pressed(failure.message);
    }
  }
}

async function pressed(words) {
  await new Promise((resolve) => {
    const again = button("Try again", "primary", resolve);
    tell(words, again);
    again.focus();
  });
  hush();
}
