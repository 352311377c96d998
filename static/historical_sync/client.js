// Client of Atom's API and progress socket: for Atom's own pages, and for any page of the same origin.

/**
 * @typedef {object} Job  A HistoricalSyncJob, as the API contract describes it.
 * @property {string} id
 * @property {"pending"|"running"|"paused"|"completed"|"failed"|"cancelled"} status
 * @property {number} progress_percentage
 * @property {number} records_processed
 *
 * @typedef {object} ProgressEvent
 * @property {"snapshot"|"progress"|"paused"|"resumed"|"completed"|"failed"|"cancelled"} type
 * @property {number} seq  grows with the job's own revision
 * @property {string} at
 * @property {Job} job
 *
 * @typedef {object} Callbacks
 * @property {(job: Job, event: ProgressEvent) => void} [onProgress]  every event, the snapshot too
 * @property {(job: Job) => void} [onEnd]  completed, failed or cancelled
 * @property {(live: boolean) => void} [onConnection]  true: by socket; false: polling
 * @property {(error: ApiError) => void} [onError]  the job can't be read (any more)
 */

const FIRST_RETRY = 500; // ms
const LAST_RETRY = 30_000;
const POLL_EVERY = 5_000;
const FINISHED = ["completed", "failed", "cancelled"];

/** An answer that is not a success: `status`, and the contract's `code`, `detail` and `attr` of the first error. */
export class ApiError extends Error {
  constructor(status, body) {
    const first = body?.errors?.[0] ?? {};
    super(first.detail ?? `The request failed (${status}).`);
    this.status = status;
    this.detail = this.message;
    this.code = first.code ?? "error";
    this.attr = first.attr ?? null;
  }
}

function csrfToken() {
  const field = document.querySelector("input[name=csrfmiddlewaretoken]");
  return field?.value ?? document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? "";
}

async function request(method, path, body, headers = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (method !== "GET") sent["X-CSRFToken"] = csrfToken();
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const reply = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
  const data = await reply.json().catch(() => null);
  if (!reply.ok) throw new ApiError(reply.status, data);
  return data;
}

const part = encodeURIComponent;

/**
 * Starts an import. `options` is the API's body: a range and streams, or `{kind: "incremental"}` for what is new.
 * @returns {Promise<{job_id: string, job: Job}>}
 */
export function startHistoricalSync(integrationId, options = {}, { idempotencyKey } = {}) {
  const headers = idempotencyKey ? { "Idempotency-Key": idempotencyKey } : {};
  return request("POST", `/api/integrations/${part(integrationId)}/historical-sync/start`, options, headers);
}

/** A page of jobs, newest first. @returns {Promise<{count: number, next: string|null, previous: string|null, results: Job[]}>} */
export function listSyncJobs(integrationId, query = {}) {
  const search = new URLSearchParams(query).toString();
  return request("GET", `/api/integrations/${part(integrationId)}/historical-sync/jobs${search ? `?${search}` : ""}`);
}

/** @returns {Promise<Job>} */
export function getJobStatus(jobId) {
  return request("GET", `/api/integrations/historical-sync/jobs/${part(jobId)}`);
}

/** @returns {Promise<Job>} */
export function cancelSyncJob(jobId) {
  return request("POST", `/api/integrations/historical-sync/jobs/${part(jobId)}/cancel`);
}

/** @returns {Promise<Job>} */
export function pauseSyncJob(jobId) {
  return request("POST", `/api/integrations/historical-sync/jobs/${part(jobId)}/pause`);
}

/** @returns {Promise<Job>} */
export function resumeSyncJob(jobId) {
  return request("POST", `/api/integrations/historical-sync/jobs/${part(jobId)}/resume`);
}

/**
 * A socket that comes back by itself, and a poll while it is down.
 * @param {string} path  of the socket
 * @param {{onMessage: (text: string) => void, poll?: () => Promise<void>, onConnection?: (live: boolean) => void}} handlers
 * @returns {() => void} closes it for good
 */
export function openSocket(path, { onMessage, poll, onConnection }) {
  let socket = null;
  let retry = FIRST_RETRY;
  let retryTimer = null;
  let pollTimer = null;
  let live = null;
  let closed = false;

  function setLive(value) {
    if (value !== live) {
      live = value;
      onConnection?.(value);
    }
  }
  async function pollOnce() {
    pollTimer = null;
    if (closed || live) return;
    if (document.visibilityState !== "hidden") {
      try {
        await poll?.();
      } catch {
        // The next poll tries again.
      }
    }
    schedulePoll();
  }
  function schedulePoll(wait = POLL_EVERY) {
    if (poll && !closed && !live && pollTimer === null) pollTimer = setTimeout(pollOnce, wait);
  }
  function connect() {
    retryTimer = null;
    const address = new URL(path, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    try {
      socket = new WebSocket(address);
    } catch {
      down();
      return;
    }
    const current = socket;
    current.onopen = () => {
      retry = FIRST_RETRY;
      clearTimeout(pollTimer);
      pollTimer = null;
      setLive(true);
    };
    current.onmessage = (event) => onMessage(event.data);
    current.onclose = down;
  }
  function down() {
    if (closed || retryTimer !== null) return;
    const first = live === null;
    setLive(false);
    schedulePoll(first ? 0 : 1000);
    retryTimer = setTimeout(connect, retry * (0.75 + Math.random() / 2));
    retry = Math.min(retry * 2, LAST_RETRY);
  }
  // The socket itself may take minutes to notice.
  function offline() {
    if (!live) return;
    socket.onclose = socket.onmessage = null;
    socket.close();
    down();
  }
  function again() {
    if (document.visibilityState === "visible" && !live && retryTimer !== null) {
      clearTimeout(retryTimer);
      retryTimer = null;
      retry = FIRST_RETRY;
      connect();
    }
  }

  document.addEventListener("visibilitychange", again);
  addEventListener("online", again);
  addEventListener("offline", offline);
  connect();
  return () => {
    closed = true;
    clearTimeout(retryTimer);
    clearTimeout(pollTimer);
    document.removeEventListener("visibilitychange", again);
    removeEventListener("online", again);
    removeEventListener("offline", offline);
    socket?.close();
  };
}

/**
 * Follows a job by socket, by polling while the socket is down, until it ends or the returned function is called.
 * @param {string} jobId
 * @param {Callbacks} callbacks
 * @returns {() => void} unsubscribe
 */
export function subscribeToProgress(jobId, callbacks = {}) {
  let seen = -1;
  let status = null;
  let ended = false;
  const stop = openSocket(`/ws/historical-sync/${part(jobId)}`, {
    onMessage: (text) => receive(JSON.parse(text)),
    onConnection: callbacks.onConnection,
    poll: async () => {
      const before = seen;
      try {
        const job = await getJobStatus(jobId);
        if (seen !== before) return; // the socket came back meanwhile, and knows more
        const type = job.status !== status && [...FINISHED, "paused"].includes(job.status) ? job.status : "progress";
        receive({ type: status === null ? "snapshot" : type, seq: seen + 1, at: new Date().toISOString(), job });
      } catch (error) {
        if (error instanceof ApiError && [401, 403, 404].includes(error.status)) {
          stop();
          callbacks.onError?.(error);
        }
        throw error;
      }
    },
  });
  function receive(event) {
    if (ended || (event.seq < seen && event.type !== "snapshot")) return;
    seen = event.seq;
    status = event.job.status;
    callbacks.onProgress?.(event.job, event);
    if (FINISHED.includes(event.job.status)) {
      ended = true;
      stop();
      callbacks.onEnd?.(event.job);
    }
  }
  return stop;
}
