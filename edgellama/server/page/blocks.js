// Markdown's lines -> its blocks, as plain data:
//
//   {kind: "paragraph", text}   {kind: "heading", level, text}   {kind: "code", language, text}
//   {kind: "rule"}              {kind: "quote", blocks}          {kind: "list", start, items}
//   {kind: "table", head, align, rows}
//
// A `text` still has its emphasis and links (spans.js); an item of a list is a list of blocks;
// `start` is null where a list is not numbered.

const MAX_DEPTH = 8; // of lists and quotes in each other; deeper ones stay text
const MAX_COLUMNS = 12;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.+)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+)(?=\S)/;

/** The blocks of a text. */
export function readMarkdown(text) {
  return readBlocks(text.split("\n"), 0);
}

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
