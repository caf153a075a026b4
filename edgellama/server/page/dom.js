// Small helpers for building the page.

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A new element: element("a", {href: url}, "text", otherElement).
 * Strings become text nodes, so that nothing in them is ever read as HTML.
 */
export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** An icon from the page's symbols. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A copy of the first element of a <template>. */
export function fromTemplate(id) {
  return byId(id).content.firstElementChild.cloneNode(true);
}

/** A text area as high as what it holds, within what its style allows. */
export function fitHeight(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** True for the Enter that sends: without Shift, not choosing a word in an input method. */
export function isSendKey(event) {
  const touch = matchMedia("(pointer: coarse)").matches; // no Shift there: the button sends
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch;
}

/** Puts text on the clipboard and says so on the button for a moment. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelecting(text); // http:// beyond this machine has no clipboard API
  }
  button.classList.add("done");
  byId("announcer").textContent = "Copied";
  setTimeout(() => button.classList.remove("done"), 1500);
}

function copyBySelecting(text) {
  const focused = document.activeElement;
  const area = element("textarea", { value: text, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}
