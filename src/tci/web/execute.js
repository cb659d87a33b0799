// Runs code and reports what happens: as a stream of events where the server has one, else from the one JSON answer.
import { Failure, call } from "./common.js";

/** Run; `on` is called with ("session" | "output" | "execution", data). Throws a Failure. */
export async function execute({ key, body, signal, on }) {
  const answer = await call("/tci/execute", {
    key,
    signal,
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream, application/json" },
    body: JSON.stringify(body),
  });
  if (answer.headers.get("content-type")?.startsWith("text/event-stream")) return stream(answer.body, on);
  const { data } = await json(answer);
  on("session", { session_id: data.session_id, expires_at: data.execution?.expires_at });
  for (const output of data.outputs) on("output", output);
  on("execution", data.execution);
}

async function json(answer) {
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The connection broke before the answer was complete.");
  }
}

async function stream(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Failure("The connection broke before the answer was complete.");
    const events = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = events.pop();
    for (const event of events.map(parse)) {
      if (!event) continue;
      if (event.name === "error") throw new Failure(lateSentence(event.data), { code: event.data.code || "" });
      on(event.name, event.data);
      if (event.name === "execution") return;
    }
  }
}

const lateSentence = ({ message }) => `The server failed, not your program; nothing is billed. (${message})`;

/** Return an event's name and data; null for a comment. */
function parse(block) {
  const fields = { event: "message", data: [] };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "event") fields.event = value;
    if (name === "data") fields.data.push(value);
  }
  return fields.data.length ? { name: fields.event, data: JSON.parse(fields.data.join("\n")) } : null;
}
