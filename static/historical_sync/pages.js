// What is live on Atom's pages: fragments that arrive by socket or poll, dialogs, toasts.

import { openSocket } from "./client.js";

const TOAST_SECONDS = 12;
const toasts = document.getElementById("toasts");
const modal = document.getElementById("modal");
const shown = new Set();

// -- fragments ------------------------------------------------------------------------------------------------------------

/** Puts each top-level element of `html` in the place of the element with its id; toasts among the toasts. */
function apply(html) {
  const parsed = document.createElement("template");
  parsed.innerHTML = html;
  for (const fresh of [...parsed.content.children]) {
    if (fresh.dataset.toast) {
      toast(fresh);
      continue;
    }
    const present = fresh.id && document.getElementById(fresh.id);
    if (present) {
      if (!present.isEqualNode(fresh)) {
        morph(present, fresh);
        htmx.process(present);
      }
    } else if (fresh.dataset.newTo) {
      document.getElementById(fresh.dataset.newTo)?.prepend(fresh);
      if (fresh.isConnected) htmx.process(fresh);
    }
  }
}

/** Makes `old` like `fresh`, keeping the elements that stay: focus and a bar's motion survive. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((child, i) => (before[i] ? morph(before[i], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

async function fetchFragments(path) {
  const reply = await fetch(path, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
  const target = reply.headers.get("HX-Redirect");
  if (target) location.assign(target);
  else if (reply.ok) apply(await reply.text());
}

// -- toasts ---------------------------------------------------------------------------------------------------------------

function toast(element) {
  const key = element.dataset.toast;
  if (key !== "refused") {
    if (shown.has(key)) return;
    shown.add(key);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.addEventListener("click", () => element.remove());
  element.append(close);
  toasts.append(element);
  setTimeout(() => element.matches(":hover, :focus-within") || element.remove(), TOAST_SECONDS * 1000);
}

function say(words) {
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
    linkState.textContent = "Updates every 5 s";
    document.body.dataset.link = down.size ? "poll" : "socket";
  };
}

const stops = [
  openSocket("/ws/pages", { onMessage: apply, poll: () => fetchFragments("/live"), onConnection: connection("pages") }),
  openSocket("/ws/notifications", { onMessage: (text) => apply(JSON.parse(text).html), onConnection: connection("notifications") }),
];
for (const place of document.querySelectorAll("[data-socket]")) {
  const { socket, poll } = place.dataset;
  stops.push(openSocket(socket, { onMessage: apply, poll: () => fetchFragments(poll), onConnection: connection(socket) }));
}
addEventListener("pagehide", () => stops.forEach((stop) => stop()));
addEventListener("pageshow", (event) => event.persisted && location.reload());

// -- dialogs --------------------------------------------------------------------------------------------------------------

document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target !== modal) return;
  if (!modal.open) modal.showModal();
  (modal.querySelector("[autofocus], [aria-invalid], .button.primary, .button.danger") ?? modal).focus();
});
modal.addEventListener("close", () => modal.replaceChildren());
document.addEventListener("click", (event) => {
  const closer = event.target.closest("[data-close]");
  if (closer && modal.contains(closer)) {
    event.preventDefault();
    modal.close();
  } else if (event.target === modal) {
    modal.close();
  }
  const preset = event.target.closest("[data-since]");
  if (preset) {
    const form = preset.form;
    form.elements.start.value = preset.dataset.since;
    form.elements.end.value = form.elements.end.max;
    form.elements.start.dispatchEvent(new Event("change", { bubbles: true }));
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
});
document.addEventListener("change", (event) => {
  const { start, end } = event.target.form?.elements ?? {};
  if (!start || !end) return;
  for (const chip of event.target.form.querySelectorAll("[data-since]")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.since === start.value && end.value === end.max));
  }
});

// -- htmx -----------------------------------------------------------------------------------------------------------------

document.body.addEventListener("htmx:afterRequest", (event) => {
  const { xhr, elt } = event.detail;
  if (xhr?.getResponseHeader("X-Fragments")) apply(xhr.responseText);
  if (elt.matches("[data-close-after]")) modal.close();
});
document.body.addEventListener("htmx:responseError", (event) => {
  const { xhr } = event.detail;
  if (!xhr.getResponseHeader("X-Fragments") && !xhr.getResponseHeader("HX-Redirect")) say("That did not work. Try again in a moment.");
});
for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.body.addEventListener(name, () => say("Atom can't be reached. Try again in a moment."));
}
