// Times in the viewer's zone. The server writes them in UTC, so that they are right without this.
//
//   <time datetime="2026-10-12T14:05:00+00:00" data-as="ago|clock|moment|elapsed|since" title="... UTC">14:05 UTC</time>

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
// The page's words are English; the zone and the 12 or 24 hours are the viewer's.
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const exactly = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]; // as the server's: browsers write "Sept"

const date = (at) => `${at.getDate()} ${MONTHS[at.getMonth()]} ${at.getFullYear()}`;

function day(at) {
  return at.getFullYear() === new Date().getFullYear() ? `${at.getDate()} ${MONTHS[at.getMonth()]}` : date(at);
}

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / SECOND));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h${minutes % 60 ? ` ${minutes % 60} min` : ""}` : `${Math.round(hours / 24)} days`;
}

const FORMS = {
  ago(at, passed) {
    if (passed < MINUTE) return "just now";
    if (passed < HOUR) return `${Math.floor(passed / MINUTE)} min ago`;
    return passed < DAY ? `${Math.floor(passed / HOUR)} h ago` : day(at);
  },
  clock: (at) => (at.toDateString() === new Date().toDateString() ? clock.format(at) : `${day(at)}, ${clock.format(at)}`),
  moment: (at) => `${day(at)}, ${clock.format(at)}`,
  since: (at, passed) => (passed < 3 * SECOND ? "just now" : `${span(passed)} ago`),
  elapsed: (at, passed) => span(passed),
};

// ms that this computer's clock is ahead of the server's; 0 until the page says.
let ahead = 0;

/** Takes the server's time (ISO), so that "4 s" is right on a computer whose clock is not. */
export function serverTime(iso) {
  const there = Date.parse(iso);
  if (!Number.isNaN(there)) ahead = Date.now() - there;
}

/** Rewrites the times within `root`. */
export function localise(root = document) {
  for (const element of root.querySelectorAll("time[data-as]")) {
    const at = new Date(element.dateTime);
    const words = FORMS[element.dataset.as]?.(at, Date.now() - ahead - at);
    if (words && element.textContent !== words) element.textContent = words;
    const exact = `${date(at)}, ${exactly.format(at)}`;
    if (element.title !== exact) element.title = exact;
  }
}

setInterval(() => document.hidden || document.querySelector("time[data-as=elapsed], time[data-as=since]") === null || localise(), SECOND);
setInterval(() => document.hidden || localise(), 20 * SECOND);
