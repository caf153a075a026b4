// Markdown on the page, as models write it: headings, lists, quotes, code, small tables, emphasis
// and links. What a model says becomes text nodes only; there is no way to HTML from here.

import { readMarkdown } from "./blocks.js";
import { copy, element } from "./dom.js";
import { spans } from "./spans.js";

/**
 * Shows Markdown in `container`. Blocks that are there already are kept, so that an answer may be
 * shown again with every token: only its end is built anew, and what a reader selected stays so.
 */
export function showMarkdown(container, text) {
  const blocks = readMarkdown(text);
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

const builders = {
  // the page itself uses h1 and h2
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, {}, ...spans(text)),
  rule: () => element("hr"),
  paragraph: ({ text }) => element("p", {}, ...spans(text)),
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
    const cell = (name) => (text, i) => element(name, { className: align[i] }, ...spans(text));
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
