// The page: what the reader does, what the server answers, and who keeps it.

import { asJson, asMarkdown, asRequest } from "./conversations.js";
import { Conversations, newConversation, titleOf } from "./conversations.js";
import { Composer } from "./composer.js";
import { Drawer } from "./drawer.js";
import { byId, element } from "./dom.js";
import { Gauge } from "./gauge.js";
import * as server from "./server.js";
import { answerTo, changeSettings, question } from "./settings.js";
import { Transcript } from "./transcript.js";
import { explain, farTooLong, tooLong } from "./words.js";

const SAVE_EVERY = 1000; // milliseconds, of an answer that is being written
const MAX_BYTES_PER_TOKEN = 32; // a text with more than this many to a token of context never fits
const MIN_SPEED_TIME = 300; // milliseconds before a speed is shown

let models = [];
let current = newConversation();
let address = ""; // what the page's address named when `current` was opened: "" is a new one
let lettersPerToken = 4; // of the last answer; what streams does not say how many tokens it is
const underWay = new Map(); // conversation id -> {message, abort}
const drafts = new Map(); // conversation id -> what is in its message field
const troubles = new Map(); // conversation id -> what went wrong last

const store = await Conversations.open(changedElsewhere);
const drawer = new Drawer({ start: startNew });
const gauge = new Gauge();
const transcript = new Transcript({ edit, again });
const composer = new Composer({ send, editLast, refuse, changed: measure });

// ------------------------------------------------------------------ which conversation

/** Opens the conversation that the address names; an unknown name, or none, begins a new one. */
function openNamed() {
  const id = location.hash.slice(1);
  if (id === address) return;
  drafts.set(address, { text: composer.text, files: composer.files });
  address = id;
  current = store.get(id) ?? newConversation(current.model);
  show();
  composer.put(drafts.get(id));
  transcript.follow();
  drawer.close();
  if (!matchMedia("(pointer: coarse)").matches) composer.focus();
}

function startNew() {
  location.hash = "";
  drawer.close();
  composer.focus();
}

function show() {
  const answering = underWay.get(current.id)?.message ?? null;
  const isNew = current.messages.length === 0;
  byId("title").textContent = current.title;
  document.title = isNew ? "edgellama" : `${current.title} – edgellama`;
  byId("welcome").hidden = !isNew;
  byId("menu").hidden = isNew;
  byId("model").value = chosenModel()?.id ?? "";
  byId("open-settings").classList.toggle("set", hasSettings(current));
  showTrouble();
  transcript.show(current.messages, answering);
  composer.busy(answering !== null);
  drawer.show(store.list(), current.id, new Set(underWay.keys()));
  measure();
}

function hasSettings({ system, sampling }) {
  return system.trim() !== "" || Object.keys(sampling).length > 0;
}

function changedElsewhere(id) {
  if (underWay.has(id)) return; // it is this tab that is writing
  if (id === current.id) current = store.get(id) ?? newConversation(current.model);
  show();
}

async function save(conversation) {
  try {
    await store.save(conversation);
  } catch (error) {
    composer.note(
      `This conversation could not be saved (${error?.message ?? "unknown reason"}). ` +
        "Export it, and delete old ones to make room.",
    );
  }
}

// ------------------------------------------------------------------ what the reader says

function send(text, files) {
  current.messages.push({ role: "user", content: text, files });
  if (!current.named) current.title = titleOf(current.messages);
  answer(current);
}

/** Replaces a message; what followed it goes. */
function edit(message, text) {
  stop();
  const at = current.messages.indexOf(message);
  current.messages.splice(at, Infinity, { ...message, content: text });
  if (!current.named) current.title = titleOf(current.messages);
  answer(current);
}

function editLast() {
  const last = current.messages.findLast((message) => message.role === "user");
  if (last) transcript.edit(last);
}

/** Asks for the last answer again. */
function again() {
  stop();
  if (current.messages.at(-1)?.role === "assistant") current.messages.pop();
  if (current.messages.length > 0) answer(current);
}

function stop() {
  underWay.get(current.id)?.abort.abort();
}

// ------------------------------------------------------------------ what the model answers

async function answer(conversation) {
  const message = { role: "assistant", content: "", model: null, end: null, stats: null };
  const request = { ...conversation.sampling, messages: asRequest(conversation) };
  const job = { message, abort: new AbortController() };
  conversation.messages.push(message);
  conversation.changed = Date.now();
  underWay.set(conversation.id, job);
  troubles.delete(conversation.id);
  save(conversation);
  if (conversation === current) {
    address = conversation.id;
    history.replaceState(null, "", `#${address}`);
    show();
    transcript.follow();
    announce("Answering");
  }
  try {
    if (models.length === 0) await loadModels();
    const model = chosenModel(conversation);
    conversation.model = message.model = model.id;
    await read(conversation, job, { model: model.id, ...request }, model.n_ctx);
  } catch (error) {
    message.end = server.isAbort(error) ? "stopped" : "broken";
    if (!server.isAbort(error)) troubles.set(conversation.id, error);
  }
  // a later answer may have taken this one's place
  if (underWay.get(conversation.id) === job) underWay.delete(conversation.id);
  if (message.content === "" && message.end !== "stop") remove(conversation.messages, message);
  await save(conversation);
  if (conversation === current) {
    show();
    announce(message.content === "" ? "" : transcript.textOf(message));
  } else {
    drawer.show(store.list(), current.id, new Set(underWay.keys()));
  }
}

/** Reads the stream of an answer into its message. */
async function read(conversation, { message, abort }, request, n_ctx) {
  let saved = Date.now();
  let begun = 0;
  let before = gauge.tokens; // until it is known what they are with this message
  server
    .countTokens(request.model, request.messages, abort.signal)
    .then((tokens) => (before = tokens))
    .catch(() => {}); // then the answer itself says what is wrong
  for await (const chunk of server.stream(request, abort.signal)) {
    const [choice] = chunk.choices;
    message.stats = chunk.timings ?? message.stats;
    message.end = choice?.finish_reason ?? message.end;
    if (message.end === "length" && chunk.usage?.total_tokens >= n_ctx) message.end = "full";
    const text = choice?.delta.content;
    if (!text) continue;
    begun ||= performance.now();
    message.content += text;
    if (conversation === current) {
      const tokens = Math.round(message.content.length / lettersPerToken);
      const elapsed = performance.now() - begun;
      transcript.grow(message);
      gauge.show(before + tokens, n_ctx, elapsed > MIN_SPEED_TIME ? (1000 * tokens) / elapsed : null);
    }
    if (Date.now() - saved > SAVE_EVERY) {
      saved = Date.now();
      save(conversation); // whoever reloads the page now keeps what was said
    }
  }
  lettersPerToken = message.content.length / message.stats.predicted_n || lettersPerToken;
  if (n_ctx === null) await loadModels(); // it is loaded by now, and says its size
}

function remove(list, value) {
  const at = list.indexOf(value);
  if (at >= 0) list.splice(at, 1);
}

/** For screen readers: a whole answer at once, not token by token. */
function announce(text) {
  byId("announcer").textContent = text;
}

// ------------------------------------------------------------------ troubles

const REMEDIES = {
  again: ["Try again", again],
  edit: ["Edit the message", editLast],
  new: ["New chat", startNew],
  settings: ["Settings", settings],
};

function showTrouble() {
  const ofModels = troubles.get("models");
  const error = ofModels ?? troubles.get(current.id);
  const unanswered = current.messages.at(-1)?.role === "user" && !underWay.has(current.id);
  const [text, remedies] = error
    ? explain(error)
    : ["This message has no answer yet.", ["again", "edit"]];
  byId("trouble").hidden = !error && !unanswered;
  byId("trouble").classList.toggle("mild", !error);
  byId("trouble").querySelector("p").textContent = text;
  const buttons = remedies.map((name) => {
    const [label, act] = REMEDIES[name];
    const button = element("button", { type: "button", className: "quiet" }, label);
    button.addEventListener("click", ofModels && !unanswered ? reloadModels : act);
    return button;
  });
  byId("trouble").querySelector(".trouble-actions").replaceChildren(...buttons);
}

// ------------------------------------------------------------------ model, context, files

/** Asks the server for its models; shows what is wrong if there is no answer. */
async function loadModels() {
  try {
    models = await server.models();
    if (models.length === 0) throw new server.ServerError("The server has no model.");
    troubles.delete("models");
  } catch (error) {
    troubles.set("models", error);
    throw error;
  } finally {
    const options = models.map(({ id }) => element("option", { value: id }, id));
    byId("model").replaceChildren(...options);
    byId("model").disabled = models.length < 2;
    show();
  }
}

function reloadModels() {
  return loadModels().catch(() => {}); // shown already
}

/** The model of a conversation; where it is served no more, the first that is. */
function chosenModel(conversation = current) {
  return models.find((model) => model.id === conversation.model) ?? models[0];
}

function measure() {
  const model = chosenModel();
  if (!model || underWay.has(current.id)) gauge.rest();
  else gauge.measure(current, model, { text: composer.text, files: composer.files });
}

/** Why a file cannot go with the message, or null. */
async function refuse(file, text) {
  const model = chosenModel();
  if (!model?.n_ctx) return null; // the server will say
  const { n_ctx } = model;
  if (file.size > n_ctx * MAX_BYTES_PER_TOKEN) return farTooLong(file.name, file.size, n_ctx);
  if (text === null) return null;
  try {
    const draft = { text: composer.text, files: composer.files };
    const before = await gauge.count({ ...current, draft }, model);
    const files = [...draft.files, { name: file.name, text }];
    const after = await gauge.count({ ...current, draft: { ...draft, files } }, model);
    return tooLong(file.name, text, after - before, n_ctx - before);
  } catch (error) {
    return explain(error)[0];
  }
}

// ------------------------------------------------------------------ settings and the menu

async function settings() {
  if (!(await changeSettings(current))) return;
  if (current.messages.length > 0) await save(current);
  show();
}

const MENU = {
  async rename() {
    const title = await question({
      title: "Rename this chat",
      label: "Title",
      value: current.title,
      ok: "Rename",
    });
    if (!title?.trim()) return;
    Object.assign(current, { title: title.trim(), named: true });
    await save(current);
    show();
  },

  async delete() {
    const yes = await question({
      title: "Delete this chat?",
      explain: `“${current.title}” is kept in this browser only; it cannot be brought back.`,
      ok: "Delete",
    });
    if (yes === null) return;
    stop();
    const { id } = current;
    await store.delete(id);
    troubles.delete(id);
    startNew();
  },

  markdown: () => download(asMarkdown(current), "md", "text/markdown"),
  json: () => download(asJson(current), "json", "application/json"),
};

function download(text, suffix, type) {
  const name = current.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat";
  const href = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href, download: `${name}.${suffix}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

byId("menu").addEventListener("click", ({ target }) => {
  const action = target.closest("[data-do]")?.dataset.do;
  if (!action) return;
  byId("menu").open = false;
  MENU[action]();
});

// ------------------------------------------------------------------ keys and buttons

const shortcuts = () => answerTo(byId("shortcuts"));
const ALT_KEYS = {
  KeyK: shortcuts,
  KeyM: () => composer.focus(),
  KeyN: startNew,
  KeyR: again,
  KeyS: settings,
};

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return; // it has its own keys
  const alt = event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (event.key === "Escape") {
    if (byId("menu").open) byId("menu").open = false;
    else if (drawer.isOpen) drawer.close();
    else stop();
  } else if (alt && ALT_KEYS[event.code]) {
    event.preventDefault();
    ALT_KEYS[event.code]();
  }
});

addEventListener("click", ({ target }) => {
  if (!byId("menu").contains(target)) byId("menu").open = false;
});

byId("stop").addEventListener("click", () => {
  stop();
  composer.focus();
});
byId("open-settings").addEventListener("click", settings);
byId("open-shortcuts").addEventListener("click", shortcuts);
byId("model").addEventListener("change", ({ target }) => {
  current.model = target.value;
  if (current.messages.length > 0) save(current);
  measure();
});
byId("ideas").addEventListener("click", ({ target }) => {
  if (target.matches("button")) send(target.textContent, []);
});

server.onKeyNeeded((wasWrong) =>
  question({
    title: "The server wants a key",
    label: "API key",
    type: "password",
    explain: wasWrong
      ? "That key was not the right one."
      : "It was given to edgellama serve as --api-key. This tab forgets it when it is closed.",
    ok: "Go on",
  }),
);

addEventListener("hashchange", openNamed);
address = location.hash.slice(1);
current = store.get(address) ?? current;
show();
if (!store.kept) composer.note("This browser keeps no data here: conversations end with the tab.");
transcript.follow();
if (!matchMedia("(pointer: coarse)").matches) composer.focus();
reloadModels();
