/* Puts what the server tells into sentences for the person it is about. */

/** A sentence: its first letter is large, and it ends with a stop. */
export function sentence(words) {
  const text = title(words.trim());
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

/** Words with a large first letter. */
export function title(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The end of an axis that a position or a weight points to. */
export function direction(position, { low, high }) {
  return position === 0 ? "either is fine" : position < 0 ? low : high;
}

/** What is known of the person, one sentence each; what they stated is told to them, not of them. */
export function tastes({ explanation, stated, axes }) {
  const statements = new Map(stated.map((one) => [one.explanation, one]));
  return explanation.map((line) => (statements.has(line) ? statement(statements.get(line), axes) : sentence(line)));
}

/** What the person stated on an axis. */
export function statement({ axis: name, position, kind, words }, axes) {
  const axis = axes.find((one) => one.name === name);
  const source = kind === "said" ? `said: “${words}”` : "set it";
  if (!axis) return sentence(`a point that is gone: as you ${source}`);
  return sentence(`${axis.about}: ${direction(position, axis)}, as you ${source}`);
}

/** What a choice changed, short: the directions alone, or the server's own words where there is none. */
export function shortly(changes) {
  const directions = changes.map((line) => /^towards (.+?) \(/.exec(line)?.[1]);
  if (!changes.length || directions.some((end) => !end)) return changes.map(sentence).join(" ");
  return `Towards ${directions.join(" · ")}`;
}
