// Markdown -> DOM nodes, as models write it: headings, lists, quotes, code, small tables, emphasis
// and links. What a model says becomes text nodes only; there is no way to HTML from here.

import { copy, element } from "./dom.js";

const MAX_DEPTH = 8; // of lists and quotes in each other; deeper ones stay text
const MAX_COLUMNS = 12;
const MAX_EMPHASIS = 2000; // characters; beyond, a star is a star

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.+)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+)(?=\S)/;

/**
 * Shows Markdown in `container`. Blocks that are there already are kept, so that an answer may be
 * shown again with every token: only its end is built anew, and what a reader selected stays so.
 */
export function showMarkdown(container, text) {
  const blocks = readBlocks(text.split("\n"), 0);
  blocks.forEach((block, i) => {
    const shown = container.children[i];
    const source = JSON.stringify(block);
    if (shown?.blockSource === source) return;
    const node = build(block);
    node.blockSource = source;
    if (shown) shown.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

// ------------------------------------------------------------------ lines -> blocks (plain data)

function readBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const read = depth < MAX_DEPTH ? readers.find((reader) => reader.begins(lines, at)) : paragraph;
    const [block, next] = read.read(lines, at, depth);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

const code = {
  begins: (lines, at) => FENCE.test(lines[at]),
  read(lines, at) {
    const [, fence, language] = FENCE.exec(lines[at]);
    const indent = lines[at].search(/\S/);
    let end = at + 1;
    while (end < lines.length && !closes(lines[end], fence)) end += 1;
    const inside = lines.slice(at + 1, end).map((line) => dedent(line, indent));
    return [{ kind: "code", language: language.trim(), text: inside.join("\n") }, end + 1];
  },
};

function closes(line, fence) {
  const mark = line.trim();
  return mark.length >= fence.length && mark === fence[0].repeat(mark.length);
}

const heading = {
  begins: (lines, at) => HEADING.test(lines[at]),
  read(lines, at) {
    const [, marks, text] = HEADING.exec(lines[at]);
    return [{ kind: "heading", level: marks.length, text }, at + 1];
  },
};

const rule = {
  begins: (lines, at) => RULE.test(lines[at]),
  read: (lines, at) => [{ kind: "rule" }, at + 1],
};

const quote = {
  begins: (lines, at) => QUOTE.test(lines[at]),
  read(lines, at, depth) {
    let end = at;
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
    return [{ kind: "quote", blocks: readBlocks(inside, depth + 1) }, end];
  },
};

const list = {
  begins: (lines, at) => ITEM.test(lines[at]),
  read(lines, at, depth) {
    const first = ITEM.exec(lines[at])[2];
    const numbered = /\d/.test(first);
    const items = [];
    while (at < lines.length) {
      const item = ITEM.exec(lines[at]);
      if (!item || /\d/.test(item[2]) !== numbered || RULE.test(lines[at])) break;
      const indent = item[1].length + 2; // models indent by two, three or four
      const inside = [lines[at].slice(item[0].length)];
      at += 1;
      while (at < lines.length && belongs(lines, at, indent)) {
        inside.push(dedent(lines[at], item[0].length));
        at += 1;
      }
      items.push(readBlocks(inside, depth + 1));
      const next = skipBlank(lines, at);
      if (next < lines.length && ITEM.test(lines[next])) at = next;
    }
    return [{ kind: "list", start: numbered ? parseInt(first, 10) : null, items }, at];
  },
};

/** Whether a line goes on with a list item: indented, or the same paragraph on its next line. */
function belongs(lines, at, indent) {
  if (lines[at].trim() === "") {
    const next = skipBlank(lines, at);
    return next < lines.length && indentOf(lines[next]) >= indent;
  }
  if (indentOf(lines[at]) >= indent) return true;
  return lines[at - 1].trim() !== "" && !interrupts(lines, at);
}

const table = {
  begins: (lines, at) =>
    lines[at].includes("|") &&
    at + 1 < lines.length &&
    lines[at + 1].includes("-") &&
    cells(lines[at + 1]).every((cell) => /^:?-+:?$/.test(cell)) &&
    cells(lines[at]).length === cells(lines[at + 1]).length &&
    cells(lines[at]).length <= MAX_COLUMNS,
  read(lines, at) {
    const head = cells(lines[at]);
    const align = cells(lines[at + 1]).map((mark) =>
      mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left",
    );
    const rows = [];
    at += 2;
    while (at < lines.length && lines[at].includes("|")) {
      const row = cells(lines[at]);
      rows.push(head.map((_, column) => row[column] ?? ""));
      at += 1;
    }
    return [{ kind: "table", head, align, rows }, at];
  },
};

/** The cells of a table's line; `\|` is a bar within a cell. */
function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

const paragraph = {
  begins: () => true,
  read(lines, at) {
    let end = at + 1;
    while (end < lines.length && lines[end].trim() !== "" && !interrupts(lines, end)) end += 1;
    return [{ kind: "paragraph", text: lines.slice(at, end).join("\n").trim() }, end];
  },
};

const readers = [code, heading, rule, quote, list, table, paragraph]; // the first that begins

function interrupts(lines, at) {
  return readers.some((reader) => reader !== paragraph && reader.begins(lines, at));
}

function indentOf(line) {
  return line.search(/\S|$/);
}

function dedent(line, columns) {
  return line.slice(Math.min(columns, indentOf(line)));
}

function skipBlank(lines, at) {
  while (at < lines.length && lines[at].trim() === "") at += 1;
  return at;
}

// ------------------------------------------------------------------ blocks -> nodes

const builders = {
  // the page itself uses h1 and h2
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, {}, ...inline(text)),
  rule: () => element("hr"),
  paragraph: ({ text }) => element("p", {}, ...inline(text)),
  quote: ({ blocks }) => element("blockquote", {}, ...blocks.map(build)),

  code({ language, text }) {
    const button = element("button", { type: "button", className: "quiet" }, "Copy");
    button.addEventListener("click", () => copy(text, button));
    return element(
      "figure",
      { className: "code" },
      element("figcaption", {}, element("span", {}, language || "text"), button),
      element("pre", { tabIndex: 0 }, element("code", {}, text)),
    );
  },

  list({ start, items }) {
    const nodes = items.map((blocks) => element("li", {}, ...blocks.map(build)));
    if (start === null) return element("ul", {}, ...nodes);
    return element("ol", { start }, ...nodes);
  },

  table({ head, align, rows }) {
    const cell = (name) => (text, i) => element(name, { className: align[i] }, ...inline(text));
    const row = (name) => (texts) => element("tr", {}, ...texts.map(cell(name)));
    return element(
      "div",
      { className: "table", tabIndex: 0 },
      element(
        "table",
        {},
        element("thead", {}, row("th")(head)),
        element("tbody", {}, ...rows.map(row("td"))),
      ),
    );
  },
};

function build(block) {
  return builders[block.kind](block);
}

// ------------------------------------------------------------------ text within a block -> nodes

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
const LINK = /!?\[([^\][]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]+/y;
const WORD = /[\p{L}\p{N}]/u;

/** The nodes of a text: a list of strings and elements. */
function inline(text, depth = 0) {
  if (depth > MAX_DEPTH) return [text];
  const nodes = [];
  let end = 0; // of what is in `nodes`
  for (const { index } of text.matchAll(SPECIAL)) {
    const span = index < end ? null : readSpan(text, index, depth);
    if (span === null) continue;
    nodes.push(text.slice(end, index), span[0]);
    end = span[1];
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** [node, where it ends] for what begins at `at`, or null if those characters are just text. */
function readSpan(text, at, depth) {
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
      return readEmphasis(text, at, depth);
  }
}

function readCode(text, at) {
  const [ticks] = /^`+/.exec(text.slice(at, at + 64));
  const end = text.indexOf(ticks, at + ticks.length);
  if (end < 0) return null;
  const inside = text.slice(at + ticks.length, end).replaceAll("\n", " ");
  return [element("code", {}, inside.trim() || inside), end + ticks.length];
}

function readEmphasis(text, at, depth) {
  const [mark, make] = MARKS.find(([mark]) => text.startsWith(mark, at)) ?? [];
  if (!mark) return null;
  const begin = at + mark.length;
  const within = mark[0] === "_" && WORD.test(text[at - 1] ?? ""); // snake_case is a word
  if (within || /\s|^$/.test(text[begin] ?? "")) return null;
  for (let end = begin; (end = text.indexOf(mark, end + 1)) > 0; ) {
    if (end - begin > MAX_EMPHASIS) return null;
    const opens = /\s/.test(text[end - 1]);
    const longer = text[end + mark.length] === mark[0]; // the ** within a * is not its end
    const inWord = mark[0] === "_" && WORD.test(text[end + mark.length] ?? "");
    if (longer && mark.length === 1) end += 1;
    else if (!opens && !inWord) {
      const shift = longer ? 1 : 0; // **bold *both***: the last two close the bold
      const inside = text.slice(begin, end + shift);
      return [make(inline(inside, depth + 1)), end + shift + mark.length];
    }
  }
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
