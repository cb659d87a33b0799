// The operators' page: polls the overview and the sessions, and shows them.
import { ago, call, clock, duration, find, keptKey, make, money, say, whole } from "./common.js";
import { makeChart } from "./charts.js";

const POLL_MS = 2000;
const RATE_SECONDS = 60;
const MOST_SESSIONS = 200;
const CAUSED = ["timeout", "interrupted", "oom", "kernel_died", "output_limit"];

const key = keptKey(find("#key"), "tci-admin-key");
const notice = find("#notice");

const charts = {
  rate: makeChart(find("#chart-rate"), [["ok", "good"], ["error", "warn"], ["stopped or ended", "violet"], ["service failed", "bad"]]),
  latency: makeChart(find("#chart-latency"), [["p50", "link"], ["p95", "violet"], ["p99", "warn"]]),
  sessions: makeChart(find("#chart-sessions"), [["sessions", "link"], ["pool", "good"]]),
};

let samples = []; // what was counted, newest last, over RATE_SECONDS
let turn = 0; // a new key begins a new turn, and what the old one still answers is not shown

const set = (selector, text) => { find(selector).textContent = text; };

/** Return the counts of one answer in the lines of the chart. */
function counted({ now, executions }) {
  const total = executions.total;
  const stopped = CAUSED.reduce((sum, verdict) => sum + (total[verdict] || 0), 0);
  return { at: Date.parse(now) / 1000, counts: [total.ok || 0, total.error || 0, stopped, executions.failed || 0] };
}

/** Return how many a minute each line counted lately; nothing can be said after one look. */
function rates(sample) {
  const before = samples.at(-1);
  if (before && sample.counts.some((count, line) => count < before.counts[line])) samples = []; // counted from zero again
  samples = [...samples, sample];
  while (samples.length > 2 && samples[0].at < sample.at - RATE_SECONDS) samples.shift();
  const [first] = samples;
  const seconds = sample.at - first.at;
  if (seconds <= 0) return sample.counts.map(() => null);
  return sample.counts.map((count, line) => ((count - first.counts[line]) * 60) / seconds);
}

function showOverview(overview) {
  const { sessions, pool, executions, latency_ms: latency, spend, refusals } = overview;
  const sample = counted(overview);
  const perMinute = rates(sample);
  charts.rate.add(sample.at, perMinute);
  charts.latency.add(sample.at, [latency.p50, latency.p95, latency.p99]);
  charts.sessions.add(sample.at, [sessions.live, pool.level]);

  set("#alive", whole(sessions.live));
  const { live, capacity } = sessions;
  find("#used").hidden = !capacity;
  if (capacity) find("#used").value = (live ?? 0) / capacity;
  set("#left", capacity ? `${whole(live == null ? null : Math.max(0, capacity - live))} of ${whole(capacity)} places left` : "No limit is set");
  set("#rate", perMinute[0] === null ? "–" : whole(Math.round(perMinute.reduce((a, b) => a + b, 0))));
  const all = Object.values(executions.total).reduce((a, b) => a + b, 0);
  set("#total", `${whole(all)} in all, ${whole(executions.failed)} failed by the service`);
  set("#median", latency.p50 == null ? "–" : duration(latency.p50));
  set("#tail", latency.p95 == null ? "Nothing ran lately" : `95% below ${duration(latency.p95)}, 99% below ${duration(latency.p99)}`);
  set("#level", `${whole(pool.level)} / ${whole(pool.target)}`);
  set("#hits", pool.target === 0 ? "Switched off" : `${whole(pool.hits)} opened from it, ${whole(pool.misses)} without, ${whole(pool.failed)} failed`);
  showVerdicts({ ...executions.total, "failed by the service": executions.failed });
  showSpend(spend);
  set("#refused", whole(Object.values(refusals).reduce((a, b) => a + b, 0)));
  set("#why", Object.entries(refusals).map(([name, count]) => `${whole(count)} by ${name}`).join(", "));
}

const share = (part) => (part < 0.001 ? "< 0.1%" : `${(part * 100).toFixed(1)}%`);

function showVerdicts(counts) {
  const all = Object.values(counts).reduce((a, b) => a + b, 0);
  const seen = Object.entries(counts).filter(([, count]) => count).sort(([, one], [, other]) => other - one);
  find("#judged").hidden = !all;
  find("#verdicts").replaceChildren(...seen.map(([verdict, count]) => make("tr", {},
    make("td", { text: verdict.replaceAll("_", " ") }),
    make("td", { text: whole(count), className: "number" }),
    make("td", { text: share(count / all), className: "number" }),
  )));
}

/** Show what accounts were billed; null where the database is away. */
function showSpend(spend) {
  if (!spend) {
    set("#spent", "–");
    set("#billed", "Not known now");
    return;
  }
  set("#spent", money(spend.reduce((sum, { amount_usd: amount }) => sum + Number(amount), 0)));
  set("#billed", `${whole(spend.reduce((sum, { sessions: count }) => sum + count, 0))} sessions`);
  const sorted = [...spend].sort((a, b) => b.amount_usd - a.amount_usd);
  find("#spend").replaceChildren(...sorted.map(({ account, sessions: count, amount_usd: amount }) => make("tr", {},
    make("td", { text: account }),
    make("td", { text: whole(count), className: "number" }),
    make("td", { text: money(amount), className: "number" }),
  )));
  find("#free").hidden = spend.length > 0;
}

function cell(label, properties, ...children) {
  const made = make("td", properties, ...children);
  made.dataset.label = label;
  return made;
}

const rows = new Map(); // kept from poll to poll, so that a focused button stays focused

function showSessions({ sessions, next_cursor: next }) {
  const alive = new Set(sessions.map(({ id }) => id));
  for (const [id, row] of rows) if (!alive.has(id)) { row.remove(); rows.delete(id); }
  const body = find("#sessions");
  sessions.forEach((session, index) => {
    let row = rows.get(session.id);
    if (!row) {
      row = make("tr", {},
        cell("Session", {}, make("div", {},
          make("span", { className: "mono", text: session.id }),
          make("ul", { className: "chips" }, ...Object.entries(session.metadata ?? {}).map(
            ([name, value]) => make("li", { text: `${name}: ${value}` }),
          )),
        )),
        cell("Account", { text: session.account ?? "–" }),
        cell("Runs", { className: "number" }),
        cell("Last run", { className: "number" }),
        cell("Time left", { className: "number" }),
        cell("", { className: "number" }, make("button", {
          type: "button", className: "danger", text: "End", ariaLabel: `End session ${session.id}`,
          onclick: () => ask(session.id),
        })),
      );
      rows.set(session.id, row);
    }
    row.children[2].textContent = whole(session.execute_count);
    row.children[3].textContent = session.execute_count ? ago(session.last_execute_at) : "–";
    row.children[4].textContent = clock(session.expires_at);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
  find("#none").hidden = sessions.length > 0;
  say(find("#more"), next ? `The newest ${whole(sessions.length)} are shown.` : "");
}

let doomed = null;

function ask(id) {
  doomed = id;
  set("#doomed", id);
  find("#confirm").showModal();
  find("#keep").focus();
}

async function endDoomed() {
  find("#confirm").close();
  try {
    await call(`/tci/sessions/${encodeURIComponent(doomed)}`, { key: key(), method: "DELETE" });
    rows.get(doomed)?.remove();
    rows.delete(doomed);
    say(notice, "The session has ended.");
    setTimeout(() => { if (notice.dataset.kind === "info") say(notice, ""); }, 4000);
  } catch (error) {
    say(notice, `The session was not ended: ${error.message}`, "bad");
  }
}

const get = async (path) => (await (await call(path, { key: key() })).json()).data;

async function look(mine) {
  const [overview, list] = await Promise.allSettled([get("/tci/overview"), get(`/tci/sessions?limit=${MOST_SESSIONS}`)]);
  if (mine !== turn) return;
  const failed = [list, overview].find(({ status }) => status === "rejected")?.reason;
  // The overview needs an admin key; an ordinary key still sees its own sessions.
  find("#lists").hidden = list.status === "rejected" && [401, 403].includes(failed.status);
  for (const id of ["#spending", "#judged"]) find(id).hidden = overview.status === "rejected";
  if (overview.status === "fulfilled") {
    find("#live").hidden = false;
    showOverview(overview.value);
  } else if ([401, 403, 404].includes(overview.reason.status)) {
    find("#live").hidden = true;
  }
  if (list.status === "fulfilled") showSessions(list.value);
  if (failed) {
    say(notice, explained(failed), "bad");
  } else if (notice.dataset.kind === "bad" || notice.dataset.kind === "loading") {
    say(notice, "");
  }
}

function explained(failure) {
  if (failure.code === "not_found") return "This server has no overview; only the sessions are shown.";
  if (failure.status === 403) return "This is not an admin key: only the sessions of its own account are shown. `tci keys create --admin` makes one.";
  if (failure.status === 0) return `${failure.message} What is shown is from before.`;
  return failure.message;
}

async function poll() {
  const mine = turn;
  if (key() && !document.hidden) {
    try {
      await look(mine);
    } catch (error) { // an answer that is not what it should be must not end the polling
      say(notice, "The server's answer could not be read.", "bad");
      console.error(error);
    }
  }
  if (mine === turn) timer = setTimeout(poll, POLL_MS);
}

let timer = null;

function begin() {
  turn += 1;
  clearTimeout(timer);
  samples = [];
  for (const chart of Object.values(charts)) chart.clear();
  for (const id of ["#live", "#lists"]) find(id).hidden = true;
  if (key()) say(notice, "Asking the server…", "loading");
  else say(notice, "Paste an admin key to look after this server: `tci keys create --admin` makes one.");
  poll();
}

find("#key").addEventListener("change", begin);
find("#key").addEventListener("paste", () => setTimeout(begin));
find("#keep").addEventListener("click", () => find("#confirm").close());
find("#really").addEventListener("click", endDoomed);
begin();
if (!key()) find("#key").focus();
