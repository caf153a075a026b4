// The HTTP API of `edgellama serve`, as far as this page needs it. Every address is relative to
// the page: nothing is asked of any other origin.

const KEY = "edgellama.key"; // in sessionStorage: gone with the tab
let key = remembered();

/** What went wrong, in the server's words. */
export class ServerError extends Error {
  /** code: OpenAI's, or "unreachable", "broken"; details: the error object of the answer. */
  constructor(message, { status = 0, code = "", details = {}, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, details, retryAfter });
  }
}

let askForKey = async () => null;
let asking = null;

/** ask(wasWrong) -> the key, or null: called when the server wants one. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** The models that can be chosen: [{id, n_ctx}], n_ctx null of one that is not loaded yet. */
export async function models() {
  const { data } = await (await request("v1/models")).json();
  return data.map(({ id, meta }) => ({ id, n_ctx: meta?.n_ctx ?? null }));
}

/** How many tokens a conversation has, as the model reads it up to where it answers. */
export async function countTokens(model, messages, signal) {
  const response = await request("apply-template", { body: { model, messages }, signal });
  return (await response.json()).n_tokens;
}

/** The chunks of a streamed chat completion; aborting `signal` ends them with an AbortError. */
export async function* stream(body, signal) {
  const response = await request("v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } },
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw errorFrom(chunk.error, { status: response.status });
    yield chunk;
  }
  throw new ServerError("The answer broke off: the server closed the connection.", {
    code: "broken",
  });
}

async function request(path, { body, signal } = {}) {
  const sent = key;
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw isAbort(error) ? error : unreachable();
  }
  if (response.ok) return response;
  if (response.status === 401) {
    // several requests may be refused at once; the reader is asked once
    if (key === sent) asking ??= newKey(sent !== null).finally(() => (asking = null));
    await asking;
    if (key !== sent) return request(path, { body, signal });
  }
  throw await refusal(response);
}

async function newKey(wasWrong) {
  const given = await askForKey(wasWrong);
  if (!given) return;
  key = given;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // storage is forbidden here: it holds until the page is left
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

async function refusal(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const { status } = response;
  try {
    const { error } = await response.json();
    return errorFrom(error, { status, retryAfter });
  } catch {
    return new ServerError(`The server answered ${status} ${response.statusText}.`, {
      status,
      retryAfter,
    });
  }
}

function errorFrom(error, { status, retryAfter = null }) {
  return new ServerError(error.message, {
    status,
    code: error.code ?? error.type ?? "",
    details: error,
    retryAfter,
  });
}

function unreachable() {
  return new ServerError("The server does not answer.", { code: "unreachable" });
}

export function isAbort(error) {
  return error.name === "AbortError";
}

/** The `data:` of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } catch (error) {
    throw isAbort(error) ? error : unreachable();
  } finally {
    reader.cancel().catch(() => {}); // a stream that broke has nothing left to cancel
  }
}
