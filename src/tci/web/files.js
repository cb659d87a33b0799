// Files of a session: those that go with the next run, and those that can be downloaded.
import { bytes, call, find, make } from "./common.js";

let pending = [];

export const waiting = () => pending;

/** Show what goes with the next run; `changed` is called whenever that changes. */
export function watchDrops(changed) {
  const zone = find("#drop");
  const input = find("#upload");
  const show = () => {
    find("#pending").replaceChildren(...pending.map((file) => make("li", {}, make("span", { text: file.name }), make("button", {
      type: "button", text: "×", ariaLabel: `Leave out ${file.name}`,
      onclick: () => { pending = pending.filter((other) => other !== file); show(); },
    }))));
    changed();
  };
  const add = (files) => {
    const names = new Set(Array.from(files, ({ name }) => name));
    pending = [...pending.filter(({ name }) => !names.has(name)), ...files];
    show();
  };
  input.addEventListener("change", () => { add(input.files); input.value = ""; });
  for (const type of ["dragenter", "dragover"]) {
    zone.addEventListener(type, (event) => { event.preventDefault(); zone.dataset.over = ""; });
  }
  zone.addEventListener("dragleave", () => { delete zone.dataset.over; });
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    delete zone.dataset.over;
    add(event.dataTransfer.files);
  });
  return { sent: (files) => { pending = pending.filter((file) => !files.includes(file)); show(); } };
}

/** Return the files as /tci/execute takes them. */
export const encoded = (files) => Promise.all(files.map((file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve({ name: file.name, encoding: "base64", content: reader.result.split(",")[1] || "" });
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
})));

/** Show the session's files; nothing where there is no session, or the server has no such route. */
export async function showFiles({ key, session, failed }) {
  const section = find("#files");
  let found = [];
  if (session) {
    try {
      const answer = await call(`/tci/sessions/${encodeURIComponent(session)}/files`, { key });
      found = (await answer.json()).data.files.filter(({ type }) => type === "file");
    } catch (error) {
      if (error.code !== "not_found" && error.code !== "session_not_found") failed(error);
    }
  }
  section.hidden = !found.length;
  find("#list").replaceChildren(...found.map(({ name, size }) => make("li", {},
    make("span", { className: "mono", text: name }),
    make("span", { className: "size", text: bytes(size) }),
    make("button", {
      type: "button", text: "Download", ariaLabel: `Download ${name}`,
      onclick: () => download({ key, session, name }).catch(failed),
    }),
  )));
}

async function download({ key, session, name }) {
  const path = name.split("/").map(encodeURIComponent).join("/");
  const answer = await call(`/tci/sessions/${encodeURIComponent(session)}/files/${path}`, { key });
  // The key goes in a header, which a link can't send: the bytes become an address that only this page has.
  const address = URL.createObjectURL(new Blob([await answer.arrayBuffer()], { type: "application/octet-stream" }));
  make("a", { href: address, download: name.split("/").pop() }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
