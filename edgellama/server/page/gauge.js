// How full the context is: beside the message field, as a bar and in numbers.

import { asRequest } from "./conversations.js";
import { byId } from "./dom.js";
import * as server from "./server.js";
import { explain, farTooLong, number, speed, tooLong } from "./words.js";

const MAX_BYTES_PER_TOKEN = 32; // a text with more than this many to a token of context never fits
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

  /**
   * Why a file does not fit beside a conversation and its draft, in words, or null if it does.
   * text: what is in it, or null before it was read.
   */
  async refuse({ name, size }, text, conversation, model, draft) {
    if (!model?.n_ctx) return null; // the server will say
    if (size > model.n_ctx * MAX_BYTES_PER_TOKEN) return farTooLong(name, size, model.n_ctx);
    if (text === null) return null;
    const withFile = { ...draft, files: [...draft.files, { name, text }] };
    try {
      const before = await this.count({ ...conversation, draft }, model);
      const after = await this.count({ ...conversation, draft: withFile }, model);
      return tooLong(name, text, after - before, model.n_ctx - before);
    } catch (error) {
      return explain(error)[0];
    }
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
