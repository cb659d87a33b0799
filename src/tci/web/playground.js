// The playground: one editor, one session at a time.
import { bytes, call, clock, duration, find, keptKey, say } from "./common.js";
import { EXAMPLES } from "./examples.js";
import { execute } from "./execute.js";
import { encoded, showFiles, waiting, watchDrops } from "./files.js";
import { append, clear } from "./outputs.js";
import { SNIPPETS } from "./snippets.js";

const VERDICTS = {
  ok: "Done",
  error: "The program raised an error",
  timeout: "Stopped: it ran past its time limit",
  interrupted: "Stopped",
  oom: "Ended: it used more memory than the session has",
  kernel_died: "Ended: the Python process died",
  output_limit: "Its output was longer than the limit; the middle is left out",
};

const key = keptKey(find("#key"), "tci-key");
const outputs = find("#outputs");
const notice = find("#notice");
const state = { session: null, expires: null, language: "curl", running: null };

const editor = CodeMirror.fromTextArea(find("#code"), {
  mode: "python",
  indentUnit: 4,
  lineNumbers: true,
  lineWrapping: true,
  inputStyle: "contenteditable", // screen readers see the text
  extraKeys: {
    "Ctrl-Enter": run,
    "Cmd-Enter": run,
    Tab: (cm) => cm.execCommand(cm.somethingSelected() ? "indentMore" : "insertSoftTab"),
    "Shift-Tab": "indentLess",
    Esc: () => find("#run").focus(), // Tab indents, so there is another way out
  },
});
editor.getInputField().setAttribute("aria-label", "Python code");

function showSession() {
  find("#session").textContent = state.session || "No session: the next run opens one";
  for (const id of ["#new", "#end"]) find(id).hidden = !state.session;
  tick();
  showSnippet();
}

function tick() {
  const shown = find("#clock");
  shown.hidden = !state.expires;
  if (!state.expires) return;
  const left = Date.parse(state.expires) - Date.now();
  shown.textContent = `${clock(state.expires)} left`;
  shown.toggleAttribute("data-soon", left < 300_000);
  if (left <= 0 && !state.running) {
    forget();
    say(notice, "The session is over: its time ran out. The next run opens a new one.");
  }
}

function forget() {
  state.session = state.expires = null;
  showSession();
  find("#files").hidden = true;
}

function showSnippet() {
  const call = { code: editor.getValue(), session: state.session, files: waiting() };
  find("#snippet").textContent = SNIPPETS[state.language](call);
}

function fail(error) {
  if (error.code === "session_not_found") {
    forget();
    say(notice, `${error.message} The next run opens a new session.`, "bad");
  } else {
    say(notice, error.message, "bad");
  }
  if (error.status === 401) find("#key").focus();
}

function onEvent(name, data) {
  if (name === "session") {
    state.session = data.session_id;
    state.expires = data.expires_at || state.expires;
    showSession();
  } else if (name === "output") {
    append(outputs, data);
  } else if (name === "execution" && data) {
    state.expires = data.expires_at || state.expires;
    showVerdict(data);
  }
}

function showVerdict({ verdict, duration_ms: took, peak_memory_bytes: peak }) {
  const words = VERDICTS[verdict] || "The server failed, not your program; nothing is billed";
  const parts = [words, took != null && duration(took), peak != null && `${bytes(peak)} of memory at most`];
  say(find("#verdict"), parts.filter(Boolean).join(" · "), verdict === "ok" ? "good" : "bad");
  if (["oom", "kernel_died"].includes(verdict)) forget();
}

async function run() {
  if (state.running) return;
  if (!key()) {
    say(notice, "Paste an API key first: `make run` prints one, `tci keys create` makes more.", "bad");
    find("#key").focus();
    return;
  }
  const files = [...waiting()];
  state.running = new AbortController();
  setRunning(true);
  say(notice, "");
  say(find("#verdict"), "");
  clear(outputs);
  try {
    const body = { language: "python", code: editor.getValue(), session_id: state.session, files: await encoded(files) };
    await execute({ key: key(), body, signal: state.running.signal, on: onEvent });
    drops.sent(files);
  } catch (error) {
    if (error.name === "AbortError") say(notice, "Stopped.");
    else fail(error);
  } finally {
    state.running = null;
    setRunning(false);
  }
  await showFiles({ key: key(), session: state.session, failed: fail });
}

function setRunning(is) {
  find("#run").disabled = is;
  find("#stop").hidden = !is;
  outputs.toggleAttribute("data-running", is);
  outputs.setAttribute("aria-busy", String(is));
}

/** Interrupt the program; where the server has no route for it, go away, which interrupts it too. */
async function stop() {
  const running = state.running;
  try {
    if (!state.session) throw new Error("its id is not known yet");
    await call(`/tci/sessions/${encodeURIComponent(state.session)}/interrupt`, { key: key(), method: "POST" });
  } catch {
    running?.abort();
  }
}

async function end() {
  const button = find("#end");
  button.disabled = true;
  try {
    await call(`/tci/sessions/${encodeURIComponent(state.session)}`, { key: key(), method: "DELETE" });
    forget();
    say(notice, "The session has ended.");
  } catch (error) {
    const cannot = error.code === "not_found" || error.code === "method_not_allowed";
    if (cannot) say(notice, "This server can't end a session early; it ends when its time runs out.", "bad");
    else fail(error);
  } finally {
    button.disabled = false;
  }
}

async function copy() {
  const text = find("#snippet").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without TLS, except on this machine
    getSelection().selectAllChildren(find("#snippet"));
    document.execCommand("copy");
  }
  find("#copy").textContent = "Copied";
  setTimeout(() => { find("#copy").textContent = "Copy"; }, 1500);
}

const drops = watchDrops(showSnippet);
for (const name of Object.keys(EXAMPLES)) find("#example").add(new Option(name));
find("#example").addEventListener("change", ({ target }) => editor.setValue(EXAMPLES[target.value]));
find("#run").addEventListener("click", run);
find("#stop").addEventListener("click", stop);
find("#end").addEventListener("click", end);
find("#new").addEventListener("click", () => {
  forget();
  clear(outputs);
  say(find("#verdict"), "");
  say(notice, "The next run opens a new session; the one before lives until its time runs out.");
});
find("#copy").addEventListener("click", copy);
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    state.language = button.dataset.language;
    for (const other of document.querySelectorAll("[data-language]")) other.ariaPressed = String(other === button);
    showSnippet();
  });
}
editor.on("change", showSnippet);
editor.setValue(Object.values(EXAMPLES)[0]);
setInterval(tick, 1000);
showSession();
if (!key()) find("#key").focus();
