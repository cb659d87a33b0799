// What both pages use: elements without markup, calls to the API, and one clear sentence for each way they fail.

export class Failure extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const find = (selector) => document.querySelector(selector);

/** Make an element; text is only ever text. */
export function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** Say something in a line of its own that screen readers announce; nothing hides it. */
export function say(element, text, kind = "info") {
  element.textContent = text;
  element.dataset.kind = kind;
  element.hidden = !text;
}

/** Keep a key for as long as this tab lives, and no longer. */
export function keptKey(input, name) {
  input.value = sessionStorage.getItem(name) || "";
  input.addEventListener("input", () => sessionStorage.setItem(name, input.value.trim()));
  return () => input.value.trim();
}

/** Call the API; a failure is thrown as a Failure whose message can be shown. */
export async function call(path, { key, ...options } = {}) {
  let answer;
  try {
    const headers = { Authorization: `Bearer ${key}`, ...options.headers };
    answer = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (/ISO-8859-1|ByteString|Invalid value/i.test(error.message)) {
      throw new Failure("This is not a key: it has characters that no key has.", { status: 401 });
    }
    throw new Failure("The server does not answer. Check that it runs, then try again.");
  }
  if (!answer.ok) throw failureOf(answer, await answer.json().catch(() => null));
  return answer;
}

export function failureOf(answer, body) {
  const code = body?.error?.code || "";
  const said = body?.error?.message || `HTTP ${answer.status}`;
  const wait = answer.headers.get("retry-after");
  return new Failure(sentence(answer.status, code, said, wait), { status: answer.status, code });
}

/** Tell apart what the visitor can mend, what waits, and what is the server's own fault. */
function sentence(status, code, said, wait) {
  const later = wait ? ` Try again in ${wait} s.` : "";
  if (status === 401) return "The server does not know this key. Check that it is complete and not revoked.";
  if (status === 403) return `This key may not do that: ${said}`;
  if (status === 429) return `A limit of this key is reached: ${said}${later}`;
  if (code === "no_capacity") return `The server is full.${later}`;
  if (status >= 500) return `The server failed, not your program; nothing is billed. (${said})`;
  return said;
}

export const money = (amount) => `$${Number(amount).toFixed(2)}`;
/** A count; a dash where the server can't tell it. */
export const whole = (number) => (number == null ? "–" : Number(number).toLocaleString("en"));

export function bytes(number) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 1 : 0)} s`;
}

/** How long ago a moment was, in its largest unit. */
export function ago(moment) {
  const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(moment)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}

/** Minutes and seconds until a moment, never below zero. */
export function clock(moment) {
  const left = Math.max(0, Math.floor((Date.parse(moment) - Date.now()) / 1000));
  const two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(left / 60);
  return minutes >= 60
    ? `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(left % 60)}`
    : `${two(minutes)}:${two(left % 60)}`;
}
