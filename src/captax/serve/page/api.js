// Requests to the server, and its refusals.

const KEY = "captax-key";

export class Refusal extends Error {
  // kind: "busy" (ask again after `seconds`), "away" (no answer), "key" or "refused".
  // `type` is the server's word for what was wrong.
  constructor(kind, message, { seconds = 0, type = "" } = {}) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
    this.type = type;
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("away", "The server cannot be reached.");
  }
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // Cut off, or answered by something in between.
    if (response.ok || response.status >= 500) {
      throw new Refusal("away", "The server cannot be reached.");
    }
    throw new Refusal("refused", `The server answered with status ${response.status}.`);
  }
  if (response.ok) return body;
  const message = body.error?.message ?? `The server answered with status ${response.status}.`;
  if (response.status === 401) throw new Refusal("key", message);
  if (response.status === 429 || response.status === 503) {
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    throw new Refusal("busy", message, { seconds: Math.min(seconds, 60) });
  }
  throw new Refusal("refused", plain(message), { type: body.error?.type });
}

// The message without details that only a program needs.
export function plain(message) {
  const said = message.replace(/^picture of \d+ bytes: /, "").replace(/; it starts with .*/, "");
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}

export function form(file, fields) {
  const data = new FormData();
  data.append("images", file, file.name || "picture");
  for (const [name, value] of Object.entries(fields)) data.append(name, String(value));
  return data;
}
