// What can be done with a whole conversation: rename, export, delete.

import { asJson, asMarkdown } from "./conversations.js";
import { byId, element } from "./dom.js";
import { question } from "./settings.js";

export class Menu {
  #root = byId("menu");
  #actions;

  /** actions: chat() -> the conversation, rename(title), forget(). */
  constructor(actions) {
    this.#actions = actions;
    this.#root.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-do]");
      if (!button) return;
      this.close();
      this.#do(button.dataset.do);
    });
    addEventListener("click", ({ target }) => {
      if (!this.#root.contains(target)) this.close();
    });
  }

  get isOpen() {
    return this.#root.open;
  }

  close() {
    this.#root.open = false;
  }

  #do(action) {
    const chat = this.#actions.chat();
    switch (action) {
      case "rename":
        return this.#rename(chat);
      case "delete":
        return this.#delete(chat);
      case "markdown":
        return download(chat.title, "md", "text/markdown", asMarkdown(chat));
      case "json":
        return download(chat.title, "json", "application/json", asJson(chat));
    }
  }

  async #rename({ title }) {
    const answer = await question({
      title: "Rename this chat",
      label: "Title",
      value: title,
      ok: "Rename",
    });
    if (answer?.trim()) this.#actions.rename(answer.trim());
  }

  async #delete({ title }) {
    const yes = await question({
      title: "Delete this chat?",
      explain: `“${title}” is kept in this browser only; it cannot be brought back.`,
      ok: "Delete",
    });
    if (yes !== null) this.#actions.forget();
  }
}

function download(title, suffix, type, text) {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat";
  const href = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href, download: `${name}.${suffix}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // long enough to be saved
}
