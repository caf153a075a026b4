// Text within a block of Markdown -> nodes: emphasis, code, links, line breaks.

import { element } from "./dom.js";

const MAX_DEPTH = 8; // of emphasis in emphasis

const MARKS = [
  // what opens and closes, and the element it makes
  ["***", (nodes) => element("strong", {}, element("em", {}, ...nodes))],
  ["**", (nodes) => element("strong", {}, ...nodes)],
  ["__", (nodes) => element("strong", {}, ...nodes)],
  ["~~", (nodes) => element("s", {}, ...nodes)],
  ["*", (nodes) => element("em", {}, ...nodes)],
  ["_", (nodes) => element("em", {}, ...nodes)],
];
const SPECIAL = /[\\`*_~[!\n]|https?:\/\//g;
const LINK = /!?\[([^\][]*)\]\(<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?: +"[^"]*")?\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]+/y;
const WORD = /[\p{L}\p{N}]/u;

/** The nodes of a text: a list of strings and elements. */
export function spans(text, depth = 0) {
  if (depth > MAX_DEPTH) return [text];
  const nodes = [];
  const unclosed = new Set(); // marks that nothing closes from here on: looked for only once
  let end = 0; // of what is in `nodes`
  for (const { index } of text.matchAll(SPECIAL)) {
    const span = index < end ? null : readSpan(text, index, depth, unclosed);
    if (span === null) continue;
    nodes.push(text.slice(end, index), span[0]);
    end = span[1];
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** [node, where it ends] for what begins at `at`, or null if those characters are just text. */
function readSpan(text, at, depth, unclosed) {
  switch (text[at]) {
    case "\n":
      return [element("br"), at + 1];
    case "\\":
      return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? [text[at + 1], at + 2] : null;
    case "`":
      return readCode(text, at);
    case "h":
      return readAddress(text, at);
    case "[":
    case "!":
      return readLink(text, at);
    default:
      return readEmphasis(text, at, depth, unclosed);
  }
}

function readCode(text, at) {
  const [ticks] = /^`+/.exec(text.slice(at, at + 64));
  const end = text.indexOf(ticks, at + ticks.length);
  if (end < 0) return null;
  const inside = text.slice(at + ticks.length, end).replaceAll("\n", " ");
  return [element("code", {}, inside.trim() || inside), end + ticks.length];
}

function readEmphasis(text, at, depth, unclosed) {
  const [mark, make] = MARKS.find(([mark]) => text.startsWith(mark, at)) ?? [];
  if (!mark || unclosed.has(mark)) return null;
  const begin = at + mark.length;
  const within = mark[0] === "_" && WORD.test(text[at - 1] ?? ""); // snake_case is a word
  if (within || /\s|^$/.test(text[begin] ?? "")) return null;
  for (let end = begin; (end = text.indexOf(mark, end + 1)) > 0; ) {
    const opens = /\s/.test(text[end - 1]);
    const longer = text[end + mark.length] === mark[0]; // the ** within a * is not its end
    const inWord = mark[0] === "_" && WORD.test(text[end + mark.length] ?? "");
    if (longer && mark.length === 1) end += 1;
    else if (!opens && !inWord) {
      const shift = longer ? 1 : 0; // **bold *both***: the last two close the bold
      const inside = text.slice(begin, end + shift);
      return [make(spans(inside, depth + 1)), end + shift + mark.length];
    }
  }
  unclosed.add(mark);
  return null;
}

function readLink(text, at) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  if (!found || !isWebAddress(found[2])) return null;
  return [link(found[2], found[1] || found[2]), LINK.lastIndex];
}

function readAddress(text, at) {
  ADDRESS.lastIndex = at;
  const [found] = ADDRESS.exec(text) ?? [""];
  const address = found.replace(/[.,;:!?*_~)\]}]+$/, "");
  return isWebAddress(address) ? [link(address, address), at + address.length] : null;
}

/** A link to another page; an image becomes one too, for nothing is loaded from elsewhere. */
function link(address, text) {
  const properties = { href: address, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", properties, text);
}

function isWebAddress(text) {
  try {
    return ["http:", "https:"].includes(new URL(text).protocol);
  } catch {
    return false; // relative, or no address at all
  }
}
