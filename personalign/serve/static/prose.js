/* Shows a reply as chats do: paragraphs, lists, headings, bold words and code, made of elements and texts alone. */

import { element } from "./dom.js";

const KINDS = [
  ["code", /^```/],
  ["heading", /^#{1,6} +(.+)$/],
  ["ul", /^\s*[-*•] +(.+)$/],
  ["ol", /^\s*(\d{1,3})[.)] +(.+)$/],
  ["blank", /^\s*$/],
];
const INLINE = /(\*\*[^*\n]+\*\*|`[^`\n]+`)/;

/** The elements of a text. */
export function prose(text) {
  const blocks = [];
  let open = { kind: "blank" };
  for (const line of text.split("\n")) {
    const [kind, match] = read(line, open);
    if (kind !== open.kind || kind === "heading" || open.isClosed) {
      open = begin(kind, match);
      if (open.node) blocks.push(open.node);
    }
    extend(open, line, match);
  }
  return blocks;
}

function read(line, open) {
  if (open.kind === "code" && !open.isClosed) return ["code", line.match(KINDS[0][1])];
  for (const [kind, pattern] of KINDS) {
    const match = line.match(pattern);
    if (match) return [kind, match];
  }
  return ["p", null];
}

function begin(kind, match) {
  if (kind === "blank") return { kind };
  if (kind === "code") return { kind, node: element("pre", { tabindex: "0" }), isNew: true };
  if (kind === "heading") return { kind, node: element("p", { class: "heading" }) };
  if (kind === "ol") return { kind, node: element("ol", { start: match[1] }) };
  return { kind, node: element(kind) };
}

function extend(block, line, match) {
  if (block.kind === "ul" || block.kind === "ol") block.node.append(element("li", {}, ...inline(match.at(-1))));
  else if (block.kind === "heading") block.node.append(...inline(match[1]));
  else if (block.kind === "p") block.node.append(...(block.node.hasChildNodes() ? ["\n"] : []), ...inline(line));
  else if (block.kind === "code") extendCode(block, line, match);
}

function extendCode(block, line, fence) {
  if (fence) {
    block.isClosed = !block.isNew;
    block.isNew = false;
  } else block.node.append(`${line}\n`);
}

function inline(text) {
  return text.split(INLINE).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return element("strong", {}, part.slice(2, -2));
    if (/^`.+`$/.test(part)) return element("code", {}, part.slice(1, -1));
    return part;
  });
}
