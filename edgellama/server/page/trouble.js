// What went wrong, below the conversation, with what may help.

import { byId, element } from "./dom.js";
import { explain } from "./words.js";

const LABELS = {
  again: "Try again",
  edit: "Edit the message",
  new: "New chat",
  settings: "Settings",
};

export class Trouble {
  #root = byId("trouble");
  #remedies;

  /** remedies: a function for each name of LABELS. */
  constructor(remedies) {
    this.#remedies = remedies;
  }

  /** error: what went wrong, or undefined; unanswered: whether the last message has no answer. */
  show(error, unanswered) {
    const [text, remedies] = error
      ? explain(error)
      : ["This message has no answer yet.", ["again", "edit"]];
    const buttons = remedies.map((name) => {
      const button = element("button", { type: "button", className: "quiet" }, LABELS[name]);
      button.addEventListener("click", () => this.#remedies[name]());
      return button;
    });
    this.#root.hidden = !error && !unanswered;
    this.#root.classList.toggle("mild", !error);
    this.#root.querySelector("p").textContent = text;
    this.#root.querySelector(".trouble-actions").replaceChildren(...buttons);
  }
}
