// Shows what a program put out. All of it is untrusted: text is set as text, images are images, and HTML goes into a
// frame of another origin that reaches neither this page nor the network.
import { make } from "./common.js";

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/svg+xml"];

const frames = new Map();

addEventListener("message", ({ source, data }) => {
  for (const [frame, html] of frames) {
    if (frame.contentWindow !== source) continue;
    if (!frame.isConnected) { frames.delete(frame); return; }
    if (data?.ready === true && html) {
      frames.set(frame, null); // once: whatever the frame becomes later is told nothing
      // The frame's origin is opaque, so it can't be named; what is sent is its own output.
      frame.contentWindow.postMessage({ html, theme: tciTheme() }, "*");
    } else if (Number.isFinite(data?.height)) {
      frame.style.height = `${Math.min(600, Math.max(24, data.height + 2))}px`;
    }
    return;
  }
});

// A frame can take the focus at any time, and with it the keys that the visitor presses, be they those of an API key.
// So frames are inert while the visitor types: clicks don't reach them, and one that has the focus then has taken it.
let field = null;
addEventListener("focusin", ({ target }) => {
  field = target.matches("input, textarea, select, [contenteditable=true]") ? target : null;
  for (const frame of frames.keys()) frame.inert = field !== null;
});
function guard() {
  const thief = document.activeElement;
  if (!field || !frames.has(thief)) return;
  frames.delete(thief);
  thief.replaceWith(text("error", "This output took the keyboard while you typed. It was removed."));
  field.focus();
}
addEventListener("blur", guard);
setInterval(guard, 200); // no event comes while another window has the keyboard

function framed(html) {
  const frame = make("iframe", { title: "HTML output", src: "/static/output.html" });
  frame.setAttribute("sandbox", "allow-scripts");
  frame.inert = field !== null;
  frames.set(frame, html);
  return frame;
}

function image(type, data) {
  const source = type === "image/svg+xml"
    ? `data:image/svg+xml;charset=utf-8,${encodeURIComponent(data)}`
    : `data:${type};base64,${data.replace(/\s/g, "")}`;
  return make("img", { src: source, alt: "Image output" });
}

const text = (kind, data) => make("pre", { className: kind, text: data });

/** Return the element of a display, from the richest form that it has. */
function display(data) {
  const has = (type) => typeof data[type] === "string";
  if (has("text/html")) return framed(data["text/html"]);
  const type = IMAGES.find(has);
  if (type) return image(type, data[type]);
  if (has("text/plain")) return text("result", data["text/plain"]);
  return text("result", JSON.stringify(data, null, 2));
}

export function append(list, { type, data }) {
  const last = list.lastElementChild;
  if (typeof data !== "string") {
    list.append(display(data));
  } else if ((type === "stdout" || type === "stderr") && last?.className === type) {
    last.append(data); // the next piece of the same stream
  } else {
    list.append(text(type, data));
  }
}

export function clear(list) {
  list.replaceChildren();
  frames.clear();
}
