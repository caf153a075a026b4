// The field for the next message, and the files that go with it.

import { byId, element, fitHeight, icon, isSendKey } from "./dom.js";

export class Composer {
  #area = byId("message");
  #files = [];
  #actions;

  /**
   * actions: send(text, files), editLast(), changed(), and
   * refuse(file, text or null) -> why a file cannot be attached, in words, or null; it is asked
   * before the file is read, and again with its text.
   */
  constructor(actions) {
    this.#actions = actions;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#area.addEventListener("input", () => this.#changed());
    this.#area.addEventListener("keydown", (event) => this.#key(event));
    byId("attach").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", async ({ target }) => {
      await this.attach([...target.files]);
      target.value = ""; // so that the same file may be chosen again
    });
    addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault(); // may be dropped
    });
    addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length === 0) return; // text goes where it was dropped
      event.preventDefault();
      this.attach([...event.dataTransfer.files]);
    });
    this.#area.addEventListener("paste", ({ clipboardData: { files, types } }) => {
      if (files.length > 0 && !types.includes("text/plain")) this.attach([...files]);
    });
  }

  get text() {
    return this.#area.value;
  }

  get files() {
    return this.#files;
  }

  /** Replaces what is in the field. */
  put({ text = "", files = [] } = {}) {
    this.#area.value = text;
    this.#files = files;
    this.note("");
    this.#changed();
  }

  /** Where a finger points, a keyboard would slide over the page: there the reader chooses. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.#area.focus();
  }

  /** A line below the field, for what is wrong with a file. */
  note(text) {
    byId("composer-note").textContent = text;
    byId("composer-note").hidden = text === "";
  }

  /** Shows whether an answer is being written: then there is Stop in the place of Send. */
  busy(isBusy) {
    byId("send").hidden = isBusy;
    byId("stop").hidden = !isBusy;
  }

  async attach(files) {
    this.note("");
    const refusals = [];
    for (const file of files) {
      const [text, why] = await this.#read(file);
      if (why) refusals.push(why);
      else this.#files = [...this.#files, { name: file.name, text }];
    }
    this.note(refusals.join(" "));
    this.#changed();
    this.focus();
  }

  /** [text, null], or [null, why not]. */
  async #read(file) {
    const tooLarge = await this.#actions.refuse(file, null);
    if (tooLarge) return [null, tooLarge];
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      return [null, `${file.name} is not text in UTF-8; only text files can be attached.`];
    }
    if (text.includes("\0")) return [null, `${file.name} is not a text file.`];
    const why = await this.#actions.refuse(file, text);
    return why ? [null, why] : [text, null];
  }

  #send() {
    const text = this.#area.value.trim();
    if (byId("send").hidden || (text === "" && this.#files.length === 0)) return;
    const files = this.#files;
    this.put();
    this.#actions.send(text, files);
  }

  #key(event) {
    if (isSendKey(event)) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "ArrowUp" && this.#area.value === "" && !event.isComposing) {
      event.preventDefault();
      this.#actions.editLast();
    }
  }

  #changed() {
    fitHeight(this.#area);
    const chips = byId("chips");
    chips.replaceChildren(...this.#files.map((file) => this.#chip(file)));
    chips.hidden = this.#files.length === 0;
    this.#actions.changed();
  }

  #chip(file) {
    const remove = element("button", { type: "button", className: "icon-button" }, icon("close"));
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => {
      this.#files = this.#files.filter((other) => other !== file);
      this.#changed();
      this.focus();
    });
    return element("li", {}, element("span", {}, file.name), remove);
  }
}
