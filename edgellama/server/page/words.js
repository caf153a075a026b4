// Figures and troubles in words.

export function number(value) {
  return value.toLocaleString("en");
}

/** A count that is only known roughly: two digits. */
export function about(value) {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(value, 1))) - 1);
  return `about ${number(Math.round(value / unit) * unit)}`;
}

/** An answer's figures as the server measured them: tokens, speed, the wait for the first. */
export function figures({ predicted_n, predicted_per_second, first_token_ms }) {
  return [
    `${number(predicted_n)} tokens`,
    speed(predicted_per_second),
    `first after ${time(first_token_ms)}`,
  ].join(" · ");
}

export function speed(perSecond) {
  return `${perSecond < 10 ? perSecond.toFixed(1) : number(Math.round(perSecond))} tokens/s`;
}

function time(ms) {
  if (ms < 1000) return `${Math.max(1, Math.round(ms))} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** How an answer ended, where that needs saying. */
export function ending(end) {
  return {
    stopped: "You stopped this answer.",
    length: "Cut off here: this is the longest answer that was asked for.",
    full: "Cut off here: the context is full. A new chat has room again.",
    broken: "This answer broke off.",
  }[end];
}

/** A trouble in words, and what may help: [text, names of actions]. */
export function explain(error) {
  const text = sentence(error.message);
  switch (error.code) {
    case "unreachable":
      return [`${text} Is edgellama serve still running?`, ["again"]];
    case "broken":
      return [text, ["again"]];
    case "context_length_exceeded":
      return [
        `The context is full. ${text} A shorter message, or a new chat, leaves room again.`,
        ["edit", "new"],
      ];
  }
  if (error.status === 503 || error.status === 429) {
    const wait = error.retryAfter ? ` It asks for ${error.retryAfter} s of patience.` : "";
    return [`The server is busy. ${text}${wait}`, ["again"]];
  }
  if (error.status === 401) return ["The server wants its API key.", ["again"]];
  if (error.status === 400 || error.status === 422) return [text, ["settings", "edit"]];
  return [text, ["again"]];
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Why a text file does not fit beside a conversation, or null if it does. Sizes in tokens. */
export function tooLong(name, text, size, room) {
  if (size <= room) return null;
  const words = text.split(/\s+/).length;
  const fitting = Math.max(0, Math.round((room / size) * words));
  return (
    `${name} has ${about(words)} words (${number(Math.round(size))} tokens); ` +
    `the context has room for ${about(fitting)} (${number(Math.max(0, room))} tokens). ` +
    "Attach a part of it, or start a new chat."
  );
}

/** As tooLong, for a file so large that counting its tokens would be in vain; size in bytes. */
export function farTooLong(name, size, n_ctx) {
  const tokens = `${number(n_ctx)} tokens`;
  return `${name} has ${about(size)} bytes: far more than a context of ${tokens} holds.`;
}
