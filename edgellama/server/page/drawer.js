// The list of conversations: beside the page, or over it where the screen is narrow.

import { byId, element } from "./dom.js";

const NARROW = matchMedia("(max-width: 50rem)"); // as in page.css
const DAY = 24 * 60 * 60 * 1000;

export class Drawer {
  #house = byId("house");

  /** actions: start(), a new conversation. */
  constructor({ start }) {
    byId("new-chat").addEventListener("click", start);
    byId("open-drawer").addEventListener("click", () => this.open());
    byId("close-drawer").addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    NARROW.addEventListener("change", () => this.#apply());
    this.#apply();
  }

  get isOpen() {
    return this.#house.classList.contains("open");
  }

  open() {
    this.#house.classList.add("open");
    this.#apply();
    byId("close-drawer").focus();
  }

  close() {
    if (!this.isOpen) return;
    this.#house.classList.remove("open");
    this.#apply();
    byId("open-drawer").focus();
  }

  /** Lists conversations, the one changed last first, under the days they were changed. */
  show(conversations, currentId, answering) {
    const items = [];
    let day = null;
    for (const conversation of conversations) {
      if (dayOf(conversation.changed) !== day) {
        day = dayOf(conversation.changed);
        items.push(element("li", { className: "day" }, day));
      }
      items.push(item(conversation, currentId, answering));
    }
    byId("conversations").replaceChildren(...items);
  }

  /** What the eye cannot see, the keyboard cannot reach. */
  #apply() {
    const covers = NARROW.matches && this.isOpen;
    byId("drawer").inert = NARROW.matches && !this.isOpen;
    document.querySelector("main").inert = covers;
    byId("open-drawer").setAttribute("aria-expanded", String(covers));
  }
}

function item({ id, title }, currentId, answering) {
  const link = element("a", { href: `#${id}`, title }, title);
  if (id === currentId) link.setAttribute("aria-current", "page");
  if (answering.has(id)) {
    link.classList.add("answering");
    link.append(element("span", { className: "visually-hidden" }, ", answering"));
  }
  return element("li", {}, link);
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 7 * DAY ? "This week" : "Earlier";
}
