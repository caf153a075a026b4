// Conversations, kept in this browser (IndexedDB). One record each:
//
//   id, title, created, changed      changed: milliseconds since 1970
//   named                            true once the reader chose the title
//   model                            the model that was chosen last, or null
//   system, sampling                 the settings; sampling holds what is not left to the server
//   messages: [{
//     role: "user" | "assistant", content
//     files: [{name, text}]          what a user attached
//     model, stats, end              of an answer: who gave it, its figures, how it ended
//   }]

const STORE = "conversations";
const TITLE_LENGTH = 60;

/** A conversation in which nothing was said. */
export function newConversation(model = null) {
  const now = Date.now();
  return {
    id: `${now.toString(36)}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`,
    title: "New chat",
    named: false,
    created: now,
    changed: now,
    model,
    system: "",
    sampling: {},
    messages: [],
  };
}

/** The beginning of the first message, as a title. */
export function titleOf(messages) {
  const { content, files } = messages.find((message) => message.role === "user");
  const text = (content.trim() || files[0].name).replace(/\s+/g, " ");
  if (text.length <= TITLE_LENGTH) return text;
  return `${text.slice(0, TITLE_LENGTH).replace(/\s\S*$/, "")}…`;
}

/** What is sent to the model: the system prompt, and each message with its files before it. */
export function asRequest({ system, messages }) {
  const sent = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    const { role } = message;
    const content = withFiles(message);
    if (content.trim() === "") continue; // stopped before its first word
    // some chat formats want turns to alternate: what got no answer joins what came after it
    if (sent.at(-1)?.role === role) sent.at(-1).content += `\n\n${content}`;
    else sent.push({ role, content });
  }
  return sent;
}

function withFiles({ content, files = [] }) {
  const quoted = files.map(({ name, text }) => {
    const fence = fenceFor(text);
    return `${name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}\n\n`;
  });
  return quoted.join("") + content;
}

/** Backticks that do not occur in the text. */
function fenceFor(text) {
  const runs = text.match(/`{3,}/g) ?? [];
  return "`".repeat(Math.max(2, ...runs.map((run) => run.length)) + 1);
}

export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system.trim()) parts.push(`## System\n\n${conversation.system}`);
  for (const message of conversation.messages) {
    const who = message.role === "user" ? "You" : (message.model ?? "Assistant");
    parts.push(`## ${who}\n\n${withFiles(message)}`);
  }
  return `${parts.join("\n\n")}\n`;
}

export function asJson(conversation) {
  return `${JSON.stringify(conversation, null, 2)}\n`;
}

/**
 * The conversations that this browser keeps. Other tabs are told of changes.
 *
 * `kept` is false where the browser forbids storage: then they live as long as the tab.
 */
export class Conversations {
  #database = null;
  #all = new Map();
  #channel = new BroadcastChannel("edgellama.conversations");

  /** changed(id): called when another tab has saved or deleted one. */
  static async open(changed) {
    const store = new Conversations();
    try {
      store.#database = await openDatabase();
      const all = await store.#ask("readonly", (records) => records.getAll());
      for (const conversation of all) store.#all.set(conversation.id, conversation);
    } catch {
      store.#database = null; // private windows of some browsers
    }
    store.#channel.onmessage = ({ data: id }) => store.#reload(id).then(() => changed(id));
    return store;
  }

  get kept() {
    return this.#database !== null;
  }

  /** All of them, the one changed last first. */
  list() {
    return [...this.#all.values()].sort((a, b) => b.changed - a.changed);
  }

  get(id) {
    return this.#all.get(id);
  }

  /** Rejects if the browser's storage is full. */
  async save(conversation) {
    this.#all.set(conversation.id, conversation);
    await this.#write(conversation.id, (records) => records.put(conversation));
  }

  async delete(id) {
    this.#all.delete(id);
    await this.#write(id, (records) => records.delete(id));
  }

  async #write(id, change) {
    if (!this.kept) return;
    await this.#ask("readwrite", change);
    this.#channel.postMessage(id);
  }

  async #reload(id) {
    if (!this.kept) return;
    const conversation = await this.#ask("readonly", (records) => records.get(id));
    if (conversation) this.#all.set(id, conversation);
    else this.#all.delete(id);
  }

  #ask(mode, question) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(STORE, mode);
      const request = question(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("edgellama", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}
