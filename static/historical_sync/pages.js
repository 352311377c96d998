// What is live on Atom's pages: fragments that arrive by socket or poll, times, dialogs, toasts.

import { localise, serverTime } from "../atom/times.js";
import { openSocket } from "./client.js";

const TOAST_SECONDS = 12;
const REFRESH_EVERY = 1500; // ms between two askings for what the socket does not carry
const FOLLOW_EVERY = 5000; // the same for what sums imports up
const toasts = document.getElementById("toasts");
const said = document.getElementById("said");
const modal = document.getElementById("modal");
const shown = new Set(JSON.parse(sessionStorage.getItem("toasts") ?? "[]")); // in this tab, on whichever page
const REMEMBERED = 50;
const BUSY_AT_MOST = 20_000; // ms that a form waits for its answer, as htmx does
const CALM = 1500; // ms that words stay which could change several times a second
const LONG_AGO = 50 * 60 * 1000; // ms; what the server tells of anew when a socket opens goes back an hour
const changedAt = new WeakMap();
const calmed = new WeakMap(); // what waits to be shown until the present words have been read

serverTime(document.body.dataset.now);
localise();
// On a phone the header's links and a page's tabs scroll sideways: the page that one is on shall be among those that show.
for (const here of document.querySelectorAll(".nav [aria-current], .tabs [aria-current]")) here.scrollIntoView({ inline: "center", block: "nearest", behavior: "instant" });

// -- fragments ------------------------------------------------------------------------------------------------------------

const told = new Map(); // id -> the newest that was heard of what has a revision

/** Puts each top-level element of `html` in the place of the element with its id; toasts among the toasts. */
function apply(html) {
  const parsed = document.createElement("template");
  parsed.innerHTML = html;
  localise(parsed.content);
  for (const fresh of [...parsed.content.children]) {
    if (fresh.dataset.toast) {
      toast(fresh);
      continue;
    }
    if (fresh.dataset.revision && !isOlder(fresh, told.get(fresh.id))) {
      if (told.get(fresh.id)?.dataset.revision !== fresh.dataset.revision) followSoon();
      told.set(fresh.id, fresh.cloneNode(true));
      if (fresh.dataset.status === "running") withdraw(fresh);
    }
    const present = fresh.id && document.getElementById(fresh.id);
    if (present) {
      if (present.isEqualNode(fresh)) continue;
      const before = present.dataset.revision;
      // A poll that was asked while the socket was down may be answered after the socket has told of more.
      if (isOlder(fresh, present)) continue;
      // What it says of all imports has no revision, but a time.
      if (present.dataset.readAt && fresh.dataset.readAt < present.dataset.readAt) continue;
      const focused = present.contains(document.activeElement);
      morph(present, fresh);
      htmx.process(present);
      // The button that was pressed is gone: its place is taken by the next one.
      if (focused && document.activeElement === document.body) document.getElementById(fresh.id)?.querySelector(".actions .button, .button, a[href]")?.focus();
      if (fresh.dataset.title) document.title = fresh.dataset.title;
      if (before !== fresh.dataset.revision) refreshSoon(document.getElementById(fresh.id));
    } else if (fresh.dataset.newTo) {
      const body = document.getElementById(fresh.dataset.newTo);
      if (!body) {
        const none = document.querySelector(`[data-none-of="${fresh.dataset.newTo}"]`);
        if (none) htmx.ajax("GET", location.href, { target: none.parentElement, swap: "outerHTML" });
        continue;
      }
      // Newest first; what is older than all of a page belongs on the next one.
      const later = [...body.children].find((row) => row.dataset.at < fresh.dataset.at);
      if (!later && body.children.length) continue;
      fresh.classList.add("fresh");
      body.insertBefore(fresh, later ?? null);
      htmx.process(fresh);
    }
  }
}

/** Whether it tells an earlier state of the same job. */
function isOlder(fresh, than) {
  return Boolean(than?.dataset.revision) && fresh.dataset.job === than.dataset.job && Number(fresh.dataset.revision) < Number(than.dataset.revision);
}

/** Makes `old` like `fresh`, keeping the elements that stay: focus, a bar's motion, what is folded open. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  // `data-calm` holds what must show at once (the state); within the same, words change slowly enough to be read.
  if (old.dataset.calm !== undefined) {
    const rest = (changedAt.get(old) ?? -Infinity) + CALM - performance.now();
    if (old.dataset.calm === fresh.dataset.calm && rest > 0) {
      if (!calmed.has(old)) setTimeout(() => {
        const newest = calmed.get(old);
        if (newest && old.isConnected) morph(old, newest);
      }, rest);
      calmed.set(old, fresh.cloneNode(true));
      return;
    }
    calmed.delete(old);
    if (old.textContent !== fresh.textContent) changedAt.set(old, performance.now());
  }
  const folds = old.nodeName === "DETAILS";
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !(folds && name === "open")) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value && !(folds && name === "open")) old.setAttribute(name, value);
  const after = [...fresh.childNodes];
  // What has an id and is there already stays the same element, wherever it moved.
  after.forEach((child, i) => {
    const at = old.childNodes[i];
    const same = child.id && at?.id !== child.id && [...old.children].find((other) => other.id === child.id);
    if (same) old.insertBefore(same, at ?? null);
    const now = old.childNodes[i];
    if (!now) old.append(child);
    else if (child.id && now.id !== child.id) old.insertBefore(child, now);
    else morph(now, child);
  });
  while (old.childNodes.length > after.length) old.lastChild.remove();
}

async function fetchFragments(path, more = {}, isWanted = () => true) {
  const reply = await fetch(path, { headers: { "HX-Request": "true", "HX-Current-URL": location.href, ...more }, credentials: "same-origin" });
  const target = reply.headers.get("HX-Redirect");
  const html = await reply.text();
  if (target) location.assign(target);
  else if (!reply.ok) throw new Error(`${path}: ${reply.status}`);
  else if (isWanted()) apply(html);
}

// What is too much to send with every change (a job's map and timeline) is asked for after changes, now and then.
let refreshTimer = null;
let refreshAgain = false; // something changed while the answer was on its way
let refreshedAt = -Infinity; // on the monotonic clock, as what follows: a computer's own may be put back

function refreshSoon(element, wait = REFRESH_EVERY) {
  const place = element?.closest("[data-refresh]");
  if (!place) return;
  if (refreshTimer !== null) {
    refreshAgain = true;
    return;
  }
  refreshTimer = setTimeout(async () => {
    refreshAgain = false;
    const opened = [...document.querySelectorAll("details[data-stream][open]")].map((row) => `open=${encodeURIComponent(row.dataset.stream)}`);
    try {
      await fetchFragments(`${place.dataset.refresh}?${opened.join("&")}`);
    } catch {
      // The next change asks again.
    } finally {
      refreshedAt = performance.now();
      refreshTimer = null;
      if (refreshAgain) refreshSoon(place);
    }
  }, Math.max(0, refreshedAt + wait - performance.now()));
}
document.addEventListener("toggle", (event) => {
  if (event.target.matches?.("details[data-stream][open]")) refreshSoon(document.querySelector("[data-refresh]"), 0);
}, true);

// What sums imports up (analytics, coverage, schedules), or has nothing to show yet (the explorer), is asked for anew while one changes;
// a page that nobody sees, once it is seen.
let followTimer = null;
let followedAt = -Infinity;
let swaps = 0; // what somebody asked for meanwhile, by a search or a choice, is newer than what was asked for before

function followSoon() {
  const place = document.querySelector("[data-follows]");
  if (!place || followTimer !== null) return;
  followTimer = setTimeout(async () => {
    followTimer = null;
    if (document.hidden) {
      document.addEventListener("visibilitychange", followSoon, { once: true });
      return;
    }
    followedAt = performance.now();
    const before = swaps;
    const path = location.pathname + location.search;
    try {
      await fetchFragments(path, { "HX-Target": place.dataset.follows || place.id, "X-Workspace": document.body.dataset.workspace }, () => swaps === before);
    } catch {
      // The next change asks again.
    }
    if (swaps !== before) followSoon();
  }, Math.max(REFRESH_EVERY, followedAt + FOLLOW_EVERY - performance.now()));
}

// -- toasts ---------------------------------------------------------------------------------------------------------------

let focusedBefore = null; // what somebody left to go to the toasts
toasts.addEventListener("focusin", (event) => {
  if (!toasts.contains(event.relatedTarget)) focusedBefore = event.relatedTarget;
});

function toast(element) {
  const key = element.dataset.toast;
  if (key !== "refused") {
    if (shown.has(key)) return;
    shown.add(key);
    sessionStorage.setItem("toasts", JSON.stringify([...shown].slice(-REMEMBERED)));
  }
  element.querySelector(`a[href="${location.pathname}"]`)?.remove(); // it would lead to where one is
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  const remove = () => {
    element.remove();
    const next = toasts.querySelector(".toast");
    if (!next && toasts.matches(":popover-open")) toasts.hidePopover();
    refocus(next?.querySelector(".close"), focusedBefore);
  };
  close.addEventListener("click", remove);
  element.append(close);
  toasts.append(element);
  // Shown anew, so that it lies above a dialog that was opened after it.
  if (toasts.matches(":popover-open") && modal.open) toasts.hidePopover();
  if (!toasts.matches(":popover-open")) toasts.showPopover();
  announce(element.querySelector("p").innerText);
  const later = () => setTimeout(() => (element.matches(":hover, :focus-within") ? later() : remove()), TOAST_SECONDS * 1000);
  later();
}

/** Dismisses toasts that say that an import has stopped: its row tells that it goes on since. */
function withdraw(row) {
  for (const stale of toasts.querySelectorAll(`[data-of="${row.id}"]`)) {
    if (Number(stale.dataset.revision) < Number(row.dataset.revision)) stale.querySelector(".close").click();
  }
}

/** Where what had the focus is gone: on from the first of these places that is there, or from the page's beginning. */
function refocus(...places) {
  if (document.activeElement !== document.body) return;
  (places.find((place) => place?.isConnected) ?? document.getElementById("main")).focus({ preventScroll: true });
}

/** Says it to screen readers only. */
function announce(words) {
  const line = document.createElement("p");
  line.textContent = words;
  said.append(line);
  setTimeout(() => line.remove(), TOAST_SECONDS * 1000);
}

function say(words) {
  if ([...toasts.querySelectorAll(".toast.bad p")].some((text) => text.textContent === words)) return;
  const element = document.createElement("div");
  element.className = "toast bad";
  element.dataset.toast = "refused";
  const text = document.createElement("p");
  text.textContent = words;
  element.append(text);
  toast(element);
}

// -- sockets --------------------------------------------------------------------------------------------------------------

const linkState = document.getElementById("link-state");
const down = new Set();

function connection(name) {
  return (live) => {
    live ? down.delete(name) : down.add(name);
    linkState.hidden = down.size === 0;
    document.body.dataset.link = down.size ? "poll" : "socket";
    catchUp();
  };
}

// A page that slept, or was alone, for longer than the server looks back has missed what nobody will tell it again.
let toldAt = Date.now();
function catchUp() {
  const missed = Date.now() - toldAt > LONG_AGO;
  if (down.size) return;
  if (!missed) toldAt = Date.now();
  else if (!modal.open) location.reload();
}
setInterval(catchUp, 30_000);

// What happened since the server began to make the page is told when a socket opens.
const since = `?since=${encodeURIComponent(document.body.dataset.began)}&workspace=${document.body.dataset.workspace}`;
const stops = [
  openSocket(`/ws/pages${since}`, { onMessage: apply, poll: () => fetchFragments(`/live${since}`), onConnection: connection("pages") }),
  openSocket(`/ws/notifications${since}`, { onMessage: (text) => apply(JSON.parse(text).html), onConnection: connection("notifications") }),
];
for (const place of document.querySelectorAll("[data-socket]")) {
  const { socket, poll } = place.dataset;
  stops.push(openSocket(socket, { onMessage: apply, poll: () => fetchFragments(poll), onConnection: connection(socket) }));
}
addEventListener("pagehide", () => stops.forEach((stop) => stop()));
addEventListener("pageshow", (event) => event.persisted && location.reload());

// -- dialogs --------------------------------------------------------------------------------------------------------------

let openedIn = null; // id of the job's row or monitor whose button opened the dialog

/** Moves toasts, and what is said to screen readers, to where they can be used: what is outside an open dialog is inert. */
function house(place) {
  const open = toasts.matches(":popover-open");
  place.append(toasts, said);
  if (open) toasts.showPopover();
}

let choices = 0; // made in dialogs; an estimate is of one of them, and of no later one
document.body.addEventListener("htmx:configRequest", (event) => (event.detail.choice = choices));
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const { target, requestConfig } = event.detail;
  if (event.detail.xhr.getResponseHeader("X-Fragments")) event.detail.shouldSwap = false; // they go to their own places
  else if (target === modal) house(document.body);
  else if (target.id === "estimate") {
    // The choice that was made meanwhile is asked for next.
    if (requestConfig.choice !== choices) event.detail.shouldSwap = false;
    if (event.detail.shouldSwap) target.removeAttribute("aria-busy");
  }
});
document.body.addEventListener("htmx:afterSwap", (event) => {
  swaps += 1;
  localise(event.target);
  // A list that was asked for before the socket told of more is as old as when it was asked for.
  for (const fresh of told.values()) if (document.getElementById(fresh.id)) apply(fresh.outerHTML);
  const found = document.getElementById(event.detail.target.id)?.dataset.said; // how much a search or a filter left
  if (found) announce(found);
  if (event.detail.target !== modal) return;
  if (!modal.open) {
    openedIn = document.activeElement?.closest("[data-revision]")?.id;
    modal.showModal();
  }
  house(modal);
  (modal.querySelector("[aria-invalid]") ?? modal.querySelector("[autofocus]") ?? modal.querySelector("input:not([type=hidden]), .button"))?.focus();
});
modal.addEventListener("close", () => {
  house(document.body);
  modal.replaceChildren();
  // The button that opened it may be gone with what it was good for.
  refocus(document.getElementById(openedIn)?.querySelector(".actions .button, a.cover"));
});
let pressed = null; // a selection that ends outside a dialog is no click beside it
document.addEventListener("pointerdown", (event) => (pressed = event.target));
document.addEventListener("click", (event) => {
  const closer = event.target.closest("[data-close]");
  if (closer && modal.contains(closer)) {
    event.preventDefault();
    modal.close();
  } else if (event.target === modal && pressed === modal) {
    modal.close();
  }
  const preset = event.target.closest("[data-since]");
  if (preset) {
    const form = preset.form;
    form.elements.start.value = preset.dataset.since;
    form.elements.end.value = form.elements.end.max;
    form.elements.start.dispatchEvent(new Event("change", { bubbles: true }));
  }
});
document.addEventListener("keydown", (event) => {
  // A link that says it is a button answers to the space bar like one.
  if (event.key === " " && event.target.matches?.("a[role=button]")) {
    event.preventDefault();
    event.target.click();
  }
});
document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-find]")) return;
  const words = event.target.value.toLowerCase();
  for (const label of event.target.closest("fieldset").querySelectorAll(".part-list label")) {
    label.hidden = !label.textContent.toLowerCase().includes(words);
  }
});
document.addEventListener("change", (event) => {
  // One of many was taken out or put in: it is no longer all. All: every one.
  const parts = event.target.form?.querySelector("[data-parts]");
  if (parts && event.target.name === "only") event.target.form.elements.all.checked = false;
  if (parts && event.target.name === "all" && event.target.checked) for (const box of parts.querySelectorAll("[name=only]")) box.checked = true;
  const { start, end } = event.target.form?.elements ?? {};
  if (!start || !end) return;
  if (event.target.closest(".choice")) {
    choices += 1;
    document.getElementById("estimate")?.setAttribute("aria-busy", "true");
  }
  // What was refused is not what is chosen now.
  for (const refusal of event.target.form.querySelectorAll(":scope > .notice.error")) refusal.remove();
  for (const field of event.target.form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  for (const chip of event.target.form.querySelectorAll("[data-since]:not(:disabled)")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.since === start.value && end.value === end.max));
  }
});

// -- copying --------------------------------------------------------------------------------------------------------------

// Browsers let pages write to the clipboard on secure origins only.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    } catch {
      say("The browser did not let it be copied. Select it and copy it yourself.");
      return;
    }
    button.lastElementChild.textContent = "Copied";
    announce("Copied.");
  });
}

// -- forms ----------------------------------------------------------------------------------------------------------------

// What was sent is not sent again while its answer, or the page that it leads to, is on its way: a second click would start a second import.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.ariaBusy) {
    event.preventDefault();
    event.stopImmediatePropagation();
    return;
  }
  form.ariaBusy = "true";
  setTimeout(() => (form.ariaBusy = null), BUSY_AT_MOST); // the browser was told to stop, or what came was a file
}, true);
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.xhr?.getResponseHeader("HX-Redirect")) event.detail.elt.ariaBusy = null;
});

// -- htmx -----------------------------------------------------------------------------------------------------------------

const asksByItself = (element) => element.matches('[hx-trigger^="every"]'); // and tries again without anybody's help
document.body.addEventListener("htmx:afterRequest", (event) => {
  const { xhr, elt, target, successful, requestConfig } = event.detail;
  if (xhr?.getResponseHeader("X-Fragments") && !asksByItself(elt)) {
    apply(xhr.responseText);
    if (elt.matches("form[hx-trigger=change]")) elt.reset(); // what was chosen was refused
  }
  if (elt.matches("[data-close-after]")) modal.close();
  // No answer comes for what is chosen now; a toast says so, and what stands there is of an earlier choice.
  if (target.id === "estimate" && !successful && requestConfig.choice === choices) {
    target.replaceChildren();
    target.removeAttribute("aria-busy");
  }
  // What was pressed went off the page with what it was good for; `elt` is what is left around it.
  if (requestConfig.verb === "post" && !target.isConnected && !document.getElementById(target.id)) refocus(elt.querySelector(".button"));
});
document.body.addEventListener("said", (event) => announce(event.detail.value));
document.body.addEventListener("htmx:responseError", (event) => {
  const { xhr, elt } = event.detail;
  if (!asksByItself(elt) && !xhr.getResponseHeader("X-Fragments") && !xhr.getResponseHeader("HX-Redirect")) say("That did not work. Try again in a moment.");
});
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.body.addEventListener(name, (event) => asksByItself(event.detail.elt) || say("Atom can't be reached. Try again in a moment."));
}
