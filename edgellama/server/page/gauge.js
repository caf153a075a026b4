// How full the context is: beside the message field, as a bar and in numbers.

import { asRequest } from "./conversations.js";
import { byId } from "./dom.js";
import { number, speed } from "./words.js";
import * as server from "./server.js";

const PAUSE = 300; // milliseconds without a keystroke, before the server is asked

export class Gauge {
  tokens = 0; // as shown
  #timer = 0;
  #asked = null; // AbortController of the question under way

  /** Counts a conversation and a message that is being written, once the writer pauses. */
  measure(conversation, model, draft) {
    this.rest();
    this.#asked = new AbortController();
    const { signal } = this.#asked;
    this.#timer = setTimeout(async () => {
      try {
        const tokens = await this.count({ ...conversation, draft }, model, signal);
        if (!signal.aborted) this.show(tokens, model.n_ctx);
      } catch (error) {
        if (!server.isAbort(error)) byId("gauge").hidden = true; // sending will say what is wrong
      }
    }, PAUSE);
  }

  /** Forgets what was to be counted. */
  rest() {
    clearTimeout(this.#timer);
    this.#asked?.abort();
  }

  /** Tokens of a conversation, and of its `draft` {text, files} if there is one. */
  async count({ draft, ...conversation }, model, signal) {
    const messages = [...conversation.messages];
    if (draft?.text.trim() || draft?.files.length) {
      messages.push({ role: "user", content: draft.text, files: draft.files });
    }
    const sent = asRequest({ ...conversation, messages });
    if (sent.length === 0) return 0;
    return server.countTokens(model.id, sent, signal);
  }

  /** perSecond: of the answer that is being written, or null. */
  show(tokens, size, perSecond = null) {
    this.tokens = tokens;
    byId("gauge").hidden = false;
    byId("meter").hidden = !size;
    byId("meter").value = size ? Math.min(1, tokens / size) : 0;
    const used = size ? `${number(tokens)} of ${number(size)}` : `${number(tokens)}`;
    byId("tokens").textContent =
      perSecond === null ? `${used} tokens` : `${used} · ${speed(perSecond)}`;
    byId("gauge").classList.toggle("full", Boolean(size) && tokens > size);
  }
}
