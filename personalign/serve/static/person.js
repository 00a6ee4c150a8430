/* The person whose page this is: exchanges the link in the address for a token, and reads and writes with it. */

import { newKey, request, tab } from "./api.js";
import { insist, tell } from "./notice.js";

const TOKEN = "personalign.token";
const SELF = "v1/people/me";
const NO_LINK = "Open this page by the link that you were sent: it says who you are.";
const ENDED = "Your session has ended. Ask for a new link; nothing that you did is lost.";

/**
 * Whether the person is known to this tab, by a new link or by an earlier one.
 *
 * A link leaves the address as soon as the server has answered, so that it stays in no history and no screenshot.
 */
export async function enter() {
  const link = location.hash.slice(1);
  addEventListener("hashchange", () => location.reload()); // another link was pasted
  if (!link) {
    if (!tab.read(TOKEN)) tell(NO_LINK);
    return Boolean(tab.read(TOKEN));
  }
  tab.write(TOKEN, null); // it may be another person's
  const key = newKey(); // a link that is good for one use stays good for this page where an answer gets lost
  const session = await insist(() => request("POST", "v1/sessions", { body: { link }, key }));
  history.replaceState(null, "", location.pathname + location.search);
  if (session) tab.write(TOKEN, session.token);
  return session !== null;
}

/** Forget the token. */
export function leave() {
  tab.write(TOKEN, null);
}

/** Read something of the person; null if it was refused, which was said. */
export function read(path) {
  return insist(() => request("GET", `${SELF}/${path}`, { credential: tab.read(TOKEN) }), { inWords });
}

/** Change something of the person; tried again, it counts once. */
export function write(path, body, patience) {
  const key = newKey();
  const change = { body, key, credential: tab.read(TOKEN), patience };
  return insist(() => request("POST", `${SELF}/${path}`, change), { inWords });
}

/** Erase everything about the person. */
export function erase() {
  return insist(() => request("DELETE", SELF, { key: newKey(), credential: tab.read(TOKEN) }), { inWords });
}

function inWords(failure) {
  return failure.status === 401 ? ENDED : failure.message;
}
