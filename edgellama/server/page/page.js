// The page: what the reader does, what the server answers, and who keeps it.

import { Composer } from "./composer.js";
import { Conversations, asRequest, newConversation, titleOf } from "./conversations.js";
import { Drawer } from "./drawer.js";
import { byId, element } from "./dom.js";
import { Gauge } from "./gauge.js";
import { Menu } from "./menu.js";
import * as server from "./server.js";
import { answerTo, changeSettings, question } from "./settings.js";
import { Transcript } from "./transcript.js";
import { Trouble } from "./trouble.js";

const SAVE_EVERY = 1000; // milliseconds, of an answer that is being written
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
const menu = new Menu({ chat: () => current, rename, forget });
const trouble = new Trouble({ again, edit: editLast, new: startNew, settings });

// Which conversation.

/** Opens the conversation that the address names; an unknown name, or none, begins a new one. */
function openNamed() {
  const id = location.hash.slice(1);
  if (id === address) return;
  drafts.set(address, draft());
  address = id;
  current = store.get(id) ?? newConversation(current.model);
  show();
  composer.put(drafts.get(id));
  transcript.follow();
  drawer.close();
  composer.focus();
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
  trouble.show(troubles.get("models") ?? troubles.get(current.id), isUnanswered());
  transcript.show(current.messages, answering);
  composer.busy(answering !== null);
  drawer.show(store.list(), current.id, new Set(underWay.keys()));
  measure();
}

function isUnanswered() {
  return current.messages.at(-1)?.role === "user" && !underWay.has(current.id);
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

// What the reader says.

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

/** Asks for the last answer again; for the models first, if they are not known yet. */
function again() {
  if (troubles.has("models") && !isUnanswered()) return reloadModels();
  stop();
  if (current.messages.at(-1)?.role === "assistant") current.messages.pop();
  if (current.messages.length > 0) answer(current);
}

function stop() {
  underWay.get(current.id)?.abort.abort();
}

// What the model answers.

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
    composer.focus(); // the button that asked for it may be gone
    announce("Answering");
  }
  try {
    if (models.length === 0 || troubles.has("models")) await loadModels();
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
  if (store.get(conversation.id)) await save(conversation); // else it was deleted
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
      const perSecond = elapsed > MIN_SPEED_TIME ? (1000 * tokens) / elapsed : null;
      transcript.grow(message);
      gauge.show(before + tokens, n_ctx, perSecond);
    }
    if (Date.now() - saved > SAVE_EVERY) {
      saved = Date.now();
      save(conversation); // whoever reloads the page now keeps what was said
    }
  }
  lettersPerToken = message.content.length / message.stats?.predicted_n || lettersPerToken;
  if (n_ctx === null) await reloadModels(); // it is loaded by now, and says its size
}

function remove(list, value) {
  const at = list.indexOf(value);
  if (at >= 0) list.splice(at, 1);
}

/** For screen readers: a whole answer at once, not token by token. */
function announce(text) {
  byId("announcer").textContent = text;
}

// Model, context, files.

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
  else gauge.measure(current, model, draft());
}

/** Why a file cannot go with the message, or null. */
function refuse(file, text) {
  return gauge.refuse(file, text, current, chosenModel(), draft());
}

function draft() {
  return { text: composer.text, files: composer.files };
}

// Settings and the menu.

async function settings() {
  if (!(await changeSettings(current))) return;
  if (current.messages.length > 0) await save(current);
  show();
}

async function rename(title) {
  Object.assign(current, { title, named: true });
  await save(current);
  show();
}

async function forget() {
  stop();
  troubles.delete(current.id);
  await store.delete(current.id);
  startNew();
}

// Keys and buttons.

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
    if (menu.isOpen) menu.close();
    else if (drawer.isOpen) drawer.close();
    else stop();
  } else if (alt && ALT_KEYS[event.code]) {
    event.preventDefault();
    ALT_KEYS[event.code]();
  }
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
composer.focus();
reloadModels();
