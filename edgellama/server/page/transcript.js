// The messages of a conversation on the page.

import { byId, copy, element, fitHeight, fromTemplate, isSendKey } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { ending, figures } from "./words.js";

const NEAR_END = 8; // pixels: a reader this close to the end follows what is written

export class Transcript {
  #nodes = new Map(); // message -> its <li>
  #scroller = byId("transcript");
  #list = byId("messages");
  #following = true;
  #stale = new Set(); // messages to be shown again in the next frame
  #actions;

  /** actions: edit(message, text), again(). */
  constructor(actions) {
    this.#actions = actions;
    this.#list.addEventListener("click", (event) => this.#click(event));
    this.#scroller.addEventListener("scroll", () => this.#look());
    new ResizeObserver(() => this.#keepUp()).observe(this.#scroller);
    byId("latest").addEventListener("click", () => {
      this.follow();
      byId("message").focus();
    });
  }

  /** Shows these messages. `answering`: the one that is being written, or null. */
  show(messages, answering) {
    this.#stale.clear();
    const nodes = messages.map((message) => {
      if (!this.#nodes.has(message)) this.#nodes.set(message, this.#build(message));
      this.#fill(message, message === answering);
      return this.#nodes.get(message);
    });
    for (const message of this.#nodes.keys()) {
      if (!messages.includes(message)) this.#nodes.delete(message);
    }
    nodes.forEach((node, i) => {
      node.classList.toggle("last", i === nodes.length - 1);
      const there = this.#list.children[i] ?? null;
      // what is in its place is not moved: a field in it would lose the focus
      if (there !== node) this.#list.insertBefore(node, there);
    });
    while (this.#list.children.length > nodes.length) this.#list.lastElementChild.remove();
    this.#keepUp();
  }

  /** Shows what has come to a message that is being written, in the next frame. */
  grow(message) {
    if (this.#stale.size === 0) requestAnimationFrame(() => this.#refresh());
    this.#stale.add(message);
  }

  /** Goes to the end and stays there, until the reader scrolls up. */
  follow() {
    this.#following = true;
    this.#keepUp();
  }

  /** What a message looks like as plain text. */
  textOf(message) {
    return this.#nodes.get(message)?.querySelector(".text").innerText ?? message.content;
  }

  /** Puts a field in the place of a message of the user. */
  edit(message) {
    const node = this.#nodes.get(message);
    if (!node || node.querySelector(".edit")) return;
    const form = fromTemplate("edit-template");
    const area = form.querySelector("textarea");
    const leave = () => {
      form.remove();
      node.classList.remove("editing");
      byId("message").focus();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim() === "" && !message.files?.length) return;
      leave();
      this.#actions.edit(message, area.value);
    });
    form.querySelector("[type=button]").addEventListener("click", leave);
    area.addEventListener("input", () => fitHeight(area));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation(); // it leaves the field and stops nothing
        leave();
      } else if (isSendKey(event)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    node.classList.add("editing");
    node.querySelector("article").append(form);
    area.value = message.content;
    fitHeight(area);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
    form.scrollIntoView({ block: "nearest" });
  }

  #build(message) {
    const node = fromTemplate("message-template");
    node.classList.add(message.role);
    const unused = message.role === "user" ? "again" : "edit";
    node.querySelector(`[data-do=${unused}]`).remove();
    node.querySelector(".files").append(...(message.files ?? []).map(fileNode));
    return node;
  }

  #fill(message, answering) {
    const node = this.#nodes.get(message);
    const text = node.querySelector(".text");
    node.querySelector("h2").textContent =
      message.role === "user" ? "You" : (message.model ?? "Assistant");
    node.classList.toggle("answering", answering);
    node.classList.toggle("waiting", answering && message.content === "");
    if (message.role === "user") text.textContent = message.content;
    else showMarkdown(text, message.content);
    node.querySelector(".stats").textContent = message.stats ? figures(message.stats) : "";
    const note = node.querySelector(".note");
    const end = message.end ?? (message.role === "assistant" && !answering ? "broken" : "stop");
    note.textContent = ending(end) ?? "";
    note.hidden = note.textContent === "";
  }

  #refresh() {
    for (const message of this.#stale) {
      if (this.#nodes.has(message)) this.#fill(message, true);
    }
    this.#stale.clear();
    this.#keepUp();
  }

  #click(event) {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    const node = button.closest(".message");
    const [message] = [...this.#nodes].find(([, shown]) => shown === node);
    if (button.dataset.do === "copy") copy(message.content, button);
    else if (button.dataset.do === "edit") this.edit(message);
    else this.#actions.again();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END;
    byId("latest").hidden = this.#following;
  }

  #keepUp() {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#look();
  }
}

function fileNode({ name, text }) {
  return element(
    "details",
    { className: "file" },
    element("summary", {}, name),
    element("pre", { tabIndex: 0 }, text),
  );
}
