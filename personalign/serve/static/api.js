/* Talks to the server: one request, its credential and its key against being counted twice. */

const ROOT = new URL("../", import.meta.url); // pages may stand under a prefix of an application's own
const PATIENCE_MS = 30_000;
const WORDS = {
  0: "The server can't be reached. Check the connection, then try again.",
  408: "The connection is too slow right now. Try again in a moment.",
  429: "There are too many requests at once. Wait a moment, then try again.",
  503: "The service is busy or being restarted. Nothing was lost; try again in a moment.",
};
const BROKEN = "Something went wrong on the server. Nothing was lost; try again.";

/** Why a request failed: its status (0: no answer came), in words, and whether trying again may help. */
export class Failure extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
    this.canRetry = status === 0 || status === 408 || status === 429 || status >= 500;
  }
}

/**
 * Send one request and give its answer.
 *
 * `key` marks a write: sent again with the same key it counts once. A `Failure` says what went wrong.
 */
export async function request(method, path, { body, key, credential, patience = PATIENCE_MS } = {}) {
  const headers = {};
  if (credential) headers.Authorization = `Bearer ${credential}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  const [answer, text] = await exchange(new URL(path, ROOT), {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(patience),
  });
  const content = parse(text);
  if (!answer.ok) throw new Failure(answer.status, reason(answer, content));
  return content;
}

/** A key that no other write has; browsers make UUIDs only where the address is safe. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What this tab keeps until it is closed; where a browser keeps nothing for pages in frames, until it is reloaded. */
export const tab = {
  memory: new Map(),
  read(name) {
    try {
      return sessionStorage.getItem(name);
    } catch {
      return this.memory.get(name) ?? null;
    }
  },
  write(name, value) {
    try {
      if (value === null) sessionStorage.removeItem(name);
      else sessionStorage.setItem(name, value);
    } catch {
      this.memory.set(name, value);
    }
  },
};

async function exchange(address, options) {
  try {
    const answer = await fetch(address, options);
    return [answer, await answer.text()];
  } catch {
    throw new Failure(0, WORDS[0]);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

function reason(answer, content) {
  const id = answer.headers.get("x-request-id");
  if (answer.status === 500) return id ? `${BROKEN} (request ${id})` : BROKEN;
  return WORDS[answer.status] ?? content.error?.message ?? BROKEN;
}
