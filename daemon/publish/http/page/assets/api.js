// Requests to the API. Every URL is relative to the page, so that a proxy may serve it at any path.

const BASE = new URL('api/v1/', document.baseURI);

/** Time without any byte, in milliseconds, after which a stream is dead: three keep-alives. */
const SILENCE = 30000;

/** Reports each reply that a token is missing or no longer valid: the message `unauthorized`. */
export const refusals = new EventTarget();

/** The error of a request, with a sentence for people as its message. */
export class ApiError extends Error {
  constructor(message, fields = {}) {
    super(message);
    this.status = fields.status ?? 0;
    this.reason = fields.reason ?? '';
    this.field = fields.field ?? '';
    this.retryAfter = fields.retry_after_seconds ?? null;
  }

  /** True if the daemon did not answer at all, or not with its own reply. */
  get isAway() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** Returns the URL of a path of the API with parameters; a list repeats its parameter. */
export function url(path, parameters = {}) {
  const target = new URL(path, BASE);
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) {
      if (one !== null && one !== undefined && one !== '') target.searchParams.append(name, one);
    }
  }
  return target;
}

/** Returns the URL of a frame's JPEG. */
export function frameUrl(camera, frame) {
  return url(`cameras/${encodeURIComponent(camera)}/frames/${frame.run}.${frame.number}`).href;
}

/** Returns the ID of an event as the API writes it. */
export function eventId(event) {
  return `${event.run}.${event.sequence}`;
}

/** Reads a value. */
export async function get(path, parameters, signal) {
  return read(await request(url(path, parameters), { signal }));
}

/** Sends a value and returns the reply. */
export async function post(path, body, signal) {
  return send('POST', path, body, signal);
}

/** Sends a value by a method, and returns the reply. */
export async function send(method, path, body, signal) {
  return read(await request(url(path), { ...withJson(body), method, signal }));
}

/** Returns the text of a page for monitoring, such as `metrics`. */
export async function text(path, signal) {
  return (await request(new URL(path, document.baseURI), { signal })).text();
}

function withJson(body) {
  return { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
}

async function read(response) {
  return response.status === 204 ? null : response.json();
}

async function request(target, options) {
  let response;
  try {
    response = await fetch(target, { cache: 'no-cache', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The daemon does not answer.');
  }
  if (response.ok) return response;
  const reply = await response.text().catch(() => '');
  const refused = refusal(response.status, reply);
  if (refused.status === 401) refusals.dispatchEvent(new CustomEvent('unauthorized', { detail: refused }));
  throw refused;
}

function refusal(status, reply) {
  try {
    const fields = JSON.parse(reply);
    return new ApiError(sentence(fields.message), { ...fields, status });
  } catch {
    return new ApiError(sentence(reply.trim() || `the daemon replied with status ${status}`), { status });
  }
}

/** Makes a sentence of a message, which begins in lower case and has no full stop. */
export function sentence(message) {
  const text = String(message ?? '');
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/**
 * Reads a stream of server-sent events. It ends when the daemon ends it, and fails if nothing
 * arrives for too long. `fetch` and not `EventSource`: that one gives up at a daemon that still
 * loads its model, and cannot resume after that.
 * @returns {AsyncGenerator<{id: string, data: any}>}
 */
export async function* stream(path, { parameters, body, lastId, signal } = {}) {
  const options = body ? withJson(body) : { headers: {} };
  options.headers.Accept = 'text/event-stream';
  if (lastId) options.headers['Last-Event-ID'] = lastId;
  const stop = new AbortController();
  const forward = () => stop.abort();
  signal?.addEventListener('abort', forward);
  let timer = setTimeout(forward, SILENCE);
  try {
    signal?.throwIfAborted();
    const response = await request(url(path, parameters), { ...options, signal: stop.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(forward, SILENCE);
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const message of blocks.map(parse)) if (message) yield message;
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw error instanceof ApiError ? error : new ApiError('The connection to the daemon was lost.');
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', forward);
    stop.abort();
  }
}

function parse(block) {
  const lines = block.split('\n');
  const of = (field) => lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).replace(/^ /, ''));
  const data = of('data');
  return data.length ? { id: of('id').at(-1) ?? '', data: JSON.parse(data.join('\n')) } : null;
}
