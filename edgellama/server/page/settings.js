// The dialogs: settings of a conversation, and short questions.

import { byId } from "./dom.js";

const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

/** Lets the reader change the system prompt and the sampling; resolves to true if they did. */
export async function changeSettings(conversation) {
  const dialog = byId("settings");
  const form = dialog.querySelector("form");
  form.elements.system.value = conversation.system;
  for (const name of SAMPLING) form.elements[name].value = conversation.sampling[name] ?? "";
  form.querySelector("[value=defaults]").onclick = () => {
    for (const name of SAMPLING) form.elements[name].value = "";
  };
  if ((await answerTo(dialog)) !== "save") return false;
  conversation.system = form.elements.system.value;
  conversation.sampling = {}; // an empty field is the server's to choose
  for (const name of SAMPLING) {
    const { value, valueAsNumber } = form.elements[name];
    if (value !== "") conversation.sampling[name] = valueAsNumber;
  }
  return true;
}

/**
 * Asks for a line of text, or, without `label`, for a yes. Resolves to the text ("" for a yes), or
 * to null if the reader cancels.
 */
export async function question({ title, label = null, value = "", type = "text", explain, ok }) {
  const dialog = byId("question");
  const field = dialog.querySelector(".field");
  const input = field.querySelector("input");
  dialog.querySelector("h2").textContent = title;
  field.hidden = label === null;
  field.querySelector("span").textContent = label ?? "";
  Object.assign(input, { type, value, disabled: label === null });
  dialog.querySelector(".explain").textContent = explain ?? "";
  dialog.querySelector(".explain").hidden = !explain;
  dialog.querySelector("[value=ok]").textContent = ok;
  const answer = answerTo(dialog);
  input.select();
  return (await answer) === "ok" ? input.value : null;
}

/** Opens a dialog; resolves to the value of the button that closed it. */
export function answerTo(dialog) {
  dialog.returnValue = "cancel"; // what Escape leaves
  dialog.showModal();
  const cancel = dialog.querySelector("[value=cancel]");
  if (cancel) cancel.onclick = () => dialog.close("cancel");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
