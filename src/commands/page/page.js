// What the page does: takes the token from the address, listens to the agent, and shows what it says.
//
// Everything that came from outside is set as text, never as markup. An element stays as long as what it shows, so that
// focus, and a screen reader's place, are not lost.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SILENCE = 40_000; // The agent says something every 15 seconds.
const SAMPLES = 600; // Points of a plot: ten minutes, one a second.

// The fragment is sent to nobody; it leaves the address bar and the history at once.
let token = sessionStorage.getItem("token");
const fromAddress = new URLSearchParams(location.hash.slice(1)).get("token");
if (fromAddress) {
  keep(fromAddress);
}
if (location.hash.startsWith("#token=")) {
  history.replaceState(null, "", location.pathname);
}

function keep(word) {
  token = word;
  if (word) {
    sessionStorage.setItem("token", word);
  } else {
    sessionStorage.removeItem("token");
  }
}

let lastWord = 0;
let wasRefused = false;
let line = new AbortController();
const courses = new Map(); // Folder → [milliseconds, lag, files, bytes a second], the last one at the end.

// -- listening --

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function listen() {
  let pause = 500;
  for (;;) {
    line = new AbortController();
    try {
      const answer = await fetch("/events", { headers: headers(), signal: line.signal, cache: "no-store" });
      if (answer.status === 401) {
        keep(null);
        wasRefused = true;
        continue;
      }
      if (answer.status === 503) {
        await poll();
        continue;
      }
      if (!answer.ok) {
        throw new Error(`the agent says ${answer.status}`);
      }
      pause = 500;
      await read(answer.body.getReader());
    } catch {
      // Shown below: there is no connection.
    }
    connected(false);
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 10_000);
  }
}

// Too many windows listen already: ask instead.
async function poll() {
  const answer = await fetch("/api/state", { headers: headers(), signal: line.signal, cache: "no-store" });
  if (answer.ok) {
    heard();
    show(await answer.json());
  }
  await new Promise((done) => setTimeout(done, 5000));
}

async function read(reader) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    heard();
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const kind = /^event: (.*)$/m.exec(event)?.[1];
      const data = /^data: (.*)$/m.exec(event)?.[1];
      if (kind === "past") {
        past(JSON.parse(data));
      } else if (kind === "state") {
        show(JSON.parse(data));
      }
    }
  }
}

function heard() {
  lastWord = Date.now();
  connected(true);
}

function connected(is) {
  const link = byId("link");
  if (link.classList.contains(is ? "on" : "off")) {
    return;
  }
  link.classList.toggle("on", is);
  link.classList.toggle("off", !is);
  say(byId("link-text"), is ? "live" : "no connection to the agent");
  if (!is) {
    say(byId("verdict"), "No word from the agent");
    say(byId("verdict-why"), "What is below is what it said last. Is tidewatch still running?");
  }
}

setInterval(() => {
  if (lastWord && Date.now() - lastWord > SILENCE) {
    line.abort();
  }
}, 5000);

// -- showing --

let last = null;

function show(state) {
  last = state;
  say(byId("version"), `Tidewatch ${state.version}`);
  verdict(state);
  byId("locked").hidden = state.knows;
  if (wasRefused && !state.knows) {
    say(byId("locked-why"), "That token is not the right one, or not any more. `tidewatch open` has the right one.");
  }
  for (const part of document.querySelectorAll(".names")) {
    part.hidden = !state.knows;
  }
  sample(state);
  rows(byId("folders"), state.folders, (folder) => folder.name, folderMade, folderShown);
  if (state.knows) {
    wasRefused = false;
    spent(state.cost);
    going(state);
    failures(state);
    recents(state);
  } else {
    forget();
  }
}

// What was known is not only hidden.
function forget() {
  for (const list of ["going", "failing", "recent", "held-list"]) {
    byId(list).replaceChildren();
  }
  if (byId("held").open) {
    byId("held").close();
  }
}

function verdict(state) {
  const late = state.folders.filter((folder) => folder.late || folder.outage || folder.away).length;
  const held = state.folders.reduce((sum, folder) => sum + folder.held, 0);
  const failed = state.folders.reduce((sum, folder) => sum + folder.failed + folder.unsyncable, 0);
  const behind = state.folders.filter((folder) => !folder.level).length;
  let text = "Everything is in the bucket";
  if (state.folders.length === 0) {
    text = "No folder is looked after";
  } else if (late > 0) {
    text = late === 1 ? "One folder needs attention" : `${late} folders need attention`;
  } else if (held > 0) {
    text = `${number(held)} ${held === 1 ? "change waits" : "changes wait"} for your decision`;
  } else if (failed > 0) {
    text = `${number(failed)} ${failed === 1 ? "file is" : "files are"} not in the bucket`;
  } else if (behind > 0) {
    text = "Catching up";
  }
  say(byId("verdict"), text);
  const folders = state.folders.length;
  const well = behind === 0 ? (folders === 1 ? "The folder is level." : `All ${folders} folders are level.`)
    : folders === 1 ? "The folder is not level yet." : `${folders - behind} of ${folders} folders are level.`;
  say(byId("verdict-why"), state.reasons.length > 0 ? state.reasons.join("\n") : well);
  document.title = late + held + failed > 0 ? `(!) ${text} · Tidewatch` : "Tidewatch";
}

// Keeps a list's elements in step with its items, by key: made once, shown anew whenever it changes.
function rows(list, items, keyOf, make, fill) {
  const before = new Map();
  for (const element of list.children) {
    before.set(element.dataset.key, element);
  }
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = before.get(key);
    before.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    fill(element, item);
    if (element === place) {
      place = place.nextElementSibling;
    } else {
      list.insertBefore(element, place);
    }
  }
  for (const element of before.values()) {
    element.remove();
  }
}

function folderMade() {
  const article = element("article", "folder");
  const head = element("div", "head");
  head.append(element("h3", ""), element("span", "pill"));
  const plots = element("div", "plots");
  for (const [kind, label] of [["lag", "Lag"], ["queue", "Waiting"], ["rate", "Rate"]]) {
    plots.append(plotMade(kind, label));
  }
  const holds = element("div", "holds");
  const review = element("button", "", "Review …");
  review.type = "button";
  review.addEventListener("click", () => openHeld(article.dataset.key));
  holds.append(element("span", "", ""), review);
  const actions = element("div", "actions names-only");
  article.append(head, element("p", "where"), element("div", "troubles"), holds, plots, element("p", "facts"), actions);
  return article;
}

function folderShown(article, folder) {
  const at = (selector) => article.querySelector(selector);
  say(at("h3"), folder.name);
  const [word, kind] = standing(folder);
  say(at(".pill"), word);
  at(".pill").className = `pill ${kind}`;
  at(".where").hidden = !last.knows;
  say(at(".where"), last.knows ? `${folder.path} → ${folder.to}` : "");
  let troubles = folder.troubles ?? [];
  if (folder.lease && !folder.lease_is_advisory) {
    troubles = [...troubles, folder.lease];
  }
  if (!last.knows) {
    troubles = [folder.outage && "The bucket cannot be used.", folder.away && "The folder cannot be used."].filter(Boolean);
  }
  rows(at(".troubles"), troubles, (text) => text, () => element("p", "trouble"), say);
  at(".holds").hidden = folder.held === 0;
  say(at(".holds span"), `${number(folder.held)} ${folder.held === 1 ? "delete or overwrite waits" : "deletes or overwrites wait"} for your decision`);
  at(".holds button").hidden = !last.knows;
  const course = courses.get(folder.name) ?? [];
  plotShown(at(".lag"), duration(folder.lag_seconds), folder.max_lag_seconds ? `of at most ${duration(folder.max_lag_seconds)}` : "", course.map((it) => [it[0], it[1]]));
  const left = folder.seconds_left ? `, ${duration(folder.seconds_left)} left` : "";
  plotShown(at(".queue"), `${number(folder.queued_files)} ${folder.queued_files === 1 ? "file" : "files"}`, folder.queued_bytes ? bytes(folder.queued_bytes) + left : "", course.map((it) => [it[0], it[2]]));
  plotShown(at(".rate"), `${bytes(folder.rate_bytes_per_second)}/s`, folder.sent_bytes ? `${bytes(folder.sent_bytes)} sent` : "", course.map((it) => [it[0], it[3]]));
  const facts = [
    [folder.last_scan ? ago(folder.last_scan) : "none yet", "last full scan"],
    folder.failed && [number(folder.failed), "failing"],
    folder.parked && [number(folder.parked), "parked"],
    folder.unsyncable && [number(folder.unsyncable), "cannot be synced as they are"],
    folder.deletes && [number(folder.deletes), "deletes open"],
    folder.lease_is_advisory && ["advisory", "lease: the store ignores conditions"],
    folder.watch && [folder.watch, folder.watches_used ? `watched, ${number(folder.watches_used)} ${folder.watches_used === 1 ? "watch" : "watches"}${folder.watches_allowed ? ` of ${number(folder.watches_allowed)}` : ""}` : "watched"],
  ].filter(Boolean);
  rows(at(".facts"), facts, (fact) => fact[1], factMade, factShown);
  actions(at(".actions"), folder);
}

function factMade() {
  const fact = element("span", "");
  fact.append(element("b", ""), " ", element("span", ""));
  return fact;
}

function factShown(fact, [value, label]) {
  say(fact.firstElementChild, value);
  say(fact.lastElementChild, label);
}

function standing(folder) {
  if (folder.away) {
    return ["folder away", "bad"];
  }
  if (folder.outage) {
    return ["bucket out of reach", "bad"];
  }
  if (folder.paused_since) {
    return ["paused", "warn"];
  }
  if (folder.level) {
    return ["level", "good"];
  }
  if (folder.late) {
    return ["late", "bad"];
  }
  if (!folder.begun) {
    return ["starting", ""];
  }
  return folder.held > 0 && folder.queued_files === 0 ? ["waits for you", "warn"] : ["catching up", ""];
}

// -- plots --

function plotMade(kind, label) {
  const plot = element("div", `plot ${kind}`);
  const value = element("p", "value");
  value.append(element("span", ""), element("span", "beside"));
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 300 56");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  for (const [name, tag] of [["area", "path"], ["floor", "path"], ["course", "path"]]) {
    const path = document.createElementNS(SVG, tag);
    path.setAttribute("class", name);
    drawing.append(path);
  }
  drawing.querySelector(".floor").setAttribute("d", "M0 55.5H300");
  plot.append(element("p", "label", label), value, drawing);
  return plot;
}

function plotShown(plot, value, beside, points) {
  say(plot.querySelector(".value span"), value);
  say(plot.querySelector(".beside"), beside);
  const drawing = plot.querySelector("svg");
  const label = plot.querySelector(".label").textContent;
  const end = points.at(-1)?.[0] ?? Date.now();
  const begin = Math.min(points[0]?.[0] ?? end, end - 60_000);
  const most = Math.max(...points.map((point) => point[1]), 0);
  drawing.setAttribute("aria-label", `${label} over the last ${duration(Math.round((end - begin) / 1000))}; highest ${plot.classList.contains("rate") ? `${bytes(most)}/s` : plot.classList.contains("lag") ? duration(most) : number(most)}, now ${value}`);
  const at = ([time, height]) => `${(((time - begin) / (end - begin)) * 300).toFixed(1)} ${(55 - (most ? (height / most) * 51 : 0)).toFixed(1)}`;
  const course = points.length > 1 ? `M${points.map(at).join("L")}` : "";
  drawing.querySelector(".course").setAttribute("d", course);
  const first = points.length > 1 ? at(points[0]).split(" ")[0] : 0;
  drawing.querySelector(".area").setAttribute("d", course && `${course}L300 55L${first} 55Z`);
}

function past(folders) {
  for (const [name, samples] of Object.entries(folders)) {
    courses.set(name, samples);
  }
}

// One point a second at most; the last one always stands.
function sample(state) {
  const now = Date.parse(state.at);
  const there = new Set();
  for (const folder of state.folders) {
    there.add(folder.name);
    const course = courses.get(folder.name) ?? [];
    while (course.length > 0 && (course.at(-1)[0] >= now || (course.length > 1 && now - course.at(-2)[0] < 1000))) {
      course.pop();
    }
    course.push([now, folder.lag_seconds, folder.queued_files, folder.rate_bytes_per_second]);
    if (course.length > SAMPLES) {
      course.shift();
    }
    courses.set(folder.name, course);
  }
  for (const name of courses.keys()) {
    if (!there.has(name)) {
      courses.delete(name);
    }
  }
}

// A quiet agent says nothing new, and the plots go on all the same.
setInterval(() => {
  if (last && byId("link").classList.contains("on") && document.visibilityState === "visible") {
    const at = new Date(Date.parse(last.at) + 1000).toISOString();
    last = { ...last, at };
    sample(last);
    for (const article of byId("folders").children) {
      const folder = last.folders.find((it) => it.name === article.dataset.key);
      if (folder) {
        folderShown(article, folder);
      }
    }
  }
}, 1000);

// -- names --

function spent(cost) {
  const most = cost.budget ? `; the budget is ${cost.budget}` : "";
  say(byId("cost"), `Requests cost ${cost.today} today and ${cost.month} this month, ${cost.month_at_this_pace} at this pace${most}.`);
  byId("cost").classList.toggle("bad", cost.is_over);
}

function going(state) {
  const items = state.folders.flatMap((folder) => (folder.going_up ?? []).map((file) => ({ ...file, folder: folder.name })));
  rows(byId("going"), items, (file) => `${file.folder}/${file.path}`, () => {
    const row = element("li", "");
    row.append(element("span", "name"), element("span", "size"), document.createElement("progress"));
    return row;
  }, (row, file) => {
    say(row.children[0], file.path);
    const share = file.bytes_all ? Math.min(1, file.bytes_done / file.bytes_all) : 0;
    const parts = file.parts_all ? `, part ${number(file.parts_done)} of ${number(file.parts_all)}` : "";
    say(row.children[1], `${bytes(file.bytes_done)} of ${bytes(file.bytes_all)}${parts}`);
    row.children[2].value = share;
    row.children[2].setAttribute("aria-label", file.path);
  });
}

function failures(state) {
  const items = state.folders.flatMap((folder) => folder.failing.map((file) => ({ ...file, folder: folder.name })));
  rows(byId("failing"), items, (file) => `${file.folder}/${file.path}`, () => {
    const row = element("li", "");
    row.append(element("span", "name"), element("span", "size"), element("span", "detail bad"));
    return row;
  }, (row, file) => {
    say(row.children[0], `${file.folder} / ${file.path}`);
    const times = file.attempts === 1 ? "once" : `${number(file.attempts)} times`;
    say(row.children[1], file.parked_until ? `parked, ${times}` : times);
    say(row.children[2], file.error);
  });
}

function recents(state) {
  // The same file may have happened twice: told apart by when.
  rows(byId("recent"), state.recent, (it) => `${it.at} ${it.folder} ${it.what} ${it.path}`, () => {
    const row = element("li", "");
    row.append(element("span", "what"), element("span", "name"), element("span", "size"), element("span", "detail"));
    return row;
  }, (row, it) => {
    say(row.children[0], it.what);
    row.children[0].className = `what ${it.what}`;
    say(row.children[1], state.folders.length > 1 ? `${it.folder} / ${it.path}` : it.path);
    const size = it.bytes ? `${bytes(it.bytes)} · ` : "";
    say(row.children[2], size + ago(it.at));
    row.children[2].title = it.at;
    row.children[3].hidden = !it.error;
    row.children[3].className = it.what === "failed" ? "detail bad" : "detail";
    say(row.children[3], it.error ?? "");
  });
}

// -- deciding --

async function ask(deed) {
  const answer = await fetch("/api/act", {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify(deed),
  });
  const said = await answer.json();
  if (!answer.ok) {
    throw new Error(said.error);
  }
  return said.count;
}

let saidUntil = 0;

function tell(text) {
  say(byId("said"), text);
  clearTimeout(saidUntil);
  saidUntil = setTimeout(() => say(byId("said"), ""), 6000);
}

const DEEDS = [
  ["sync_now", "Sync now", () => "Looking at everything now.", () => true],
  ["pause", "Pause", () => "Paused: nothing new is started.", (folder) => !folder.paused_since],
  ["resume", "Go on", () => "Going on.", (folder) => folder.paused_since],
  ["retry_failed", "Try failures again", () => "What failed is tried again.", (folder) => folder.failed > 0],
];

function actions(box, folder) {
  const deeds = last.knows ? DEEDS.filter((deed) => last.deeds.includes(deed[0]) && deed[3](folder)) : [];
  box.hidden = deeds.length === 0;
  rows(box, deeds, (deed) => deed[0], ([name, label, done]) => {
    const button = element("button", "", label);
    button.type = "button";
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const count = await ask({ folder: folder.name, do: name });
        tell(done(count));
      } catch (error) {
        tell(error.message);
      }
      button.disabled = false;
    });
    return button;
  }, () => {});
}

const held = { folder: "", next: null, count: 0 };

async function openHeld(name) {
  held.folder = name;
  held.next = null;
  held.count = last.folders.find((folder) => folder.name === name)?.held ?? 0;
  byId("held-list").replaceChildren();
  say(byId("held-error"), "");
  say(byId("held-title"), `Held in ${name}`);
  say(byId("held-why"), `${number(held.count)} in all. Too much was to be deleted or overwritten at once, so it waits. “Do it all” carries all of it out in the bucket; “Keep the objects” forgets it and leaves the bucket as it is.`);
  busy(false);
  byId("held").showModal();
  await moreHeld();
}

async function moreHeld() {
  const query = new URLSearchParams({ folder: held.folder });
  if (held.next) {
    query.set("next", held.next);
  }
  try {
    const answer = await fetch(`/api/held?${query}`, { headers: headers(), cache: "no-store" });
    const page = await answer.json();
    if (!answer.ok) {
      throw new Error(page.error);
    }
    for (const item of page.items) {
      const row = element("li", "");
      row.append(element("span", "what held", item.what), element("span", "name", item.path), element("span", "size", `${bytes(item.bytes)} · ${ago(item.since)}`));
      byId("held-list").append(row);
    }
    held.next = page.next;
    byId("held-more").hidden = !page.next;
  } catch (error) {
    say(byId("held-error"), error.message);
  }
}

function busy(is) {
  byId("held-release").disabled = is;
  byId("held-drop").disabled = is;
}

async function decide(deed, done) {
  busy(true);
  try {
    const count = await ask({ folder: held.folder, do: deed, held: held.count });
    byId("held").close();
    tell(`${number(count)} ${done}`);
  } catch (error) {
    say(byId("held-error"), error.message);
    busy(false);
  }
}

byId("held-close").addEventListener("click", () => byId("held").close());
byId("held-more").addEventListener("click", moreHeld);
byId("held-release").addEventListener("click", () => decide("release", "released: carried out now"));
byId("held-drop").addEventListener("click", () => decide("drop", "dropped: the objects stay"));
byId("forget").addEventListener("click", () => {
  keep(null);
  line.abort();
});
byId("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(byId("token").value.trim());
  byId("token").value = "";
  line.abort();
});

// -- words --

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) {
    made.className = name;
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  return made;
}

// Sets a text only if it is another one: a screen reader reads what is set.
function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function number(value) {
  return value.toLocaleString("en");
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 60) {
    return `${Math.round(seconds)} s`;
  }
  if (seconds < 3600) {
    const rest = Math.round(seconds % 60);
    return `${Math.floor(seconds / 60)} min${rest ? ` ${rest} s` : ""}`;
  }
  if (seconds < 86_400) {
    const rest = Math.floor((seconds % 3600) / 60);
    return `${Math.floor(seconds / 3600)} h${rest ? ` ${rest} min` : ""}`;
  }
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

function ago(at) {
  const seconds = Math.max(0, Math.round((Date.parse(last.at) - Date.parse(at)) / 1000));
  return seconds < 2 ? "just now" : `${duration(seconds)} ago`;
}

listen();
