// The stream of events, which all views share. It reconnects by itself, and resumes after the last
// event that it received.

import { ApiError, eventId, get, refusals, stream } from './api.js';
import { readSession } from './session.js';

/** Pauses before a new attempt, in milliseconds. */
const PAUSES = [500, 1000, 2000, 4000];

/** Time after which a page that nobody sees closes its stream, in milliseconds. */
const HIDDEN = 60000;

/** The messages of the feed:
 *  `event`: an event was published; `refresh`: the state was read again, and events may have been
 *  missed; `cameras`: the list of cameras or a state changed; `connection`: see `connection`. */
export const feed = new EventTarget();

/** The state of the connection: `connecting`, `open`, `lost` or `signed_out`, and the reason. */
export const connection = { state: 'connecting', reason: '' };

/** The cameras by name, in the order of the config. */
export const cameras = new Map();

/** The daemon as it was when the connection was made; `null` before that. */
export let daemon = null;

let lastId = '';
let running = null;

/** Calls `listener` with each message of a kind until `signal` is aborted. */
export function on(kind, listener, signal) {
  feed.addEventListener(kind, (message) => listener(message.detail), { signal });
}

/** Starts the feed, and closes it while nobody sees the page or nobody is signed in. */
export function start() {
  run();
  refusals.addEventListener('unauthorized', () => {
    running.abort();
    connectionIs('signed_out');
  });
  let timer;
  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => running?.abort(), HIDDEN);
    else if (running?.signal.aborted) run();
  });
}

/** Reads the list of cameras again. */
export async function readCameras(signal) {
  const listed = (await get('cameras', {}, signal)).cameras;
  cameras.clear();
  for (const camera of listed) cameras.set(camera.name, camera);
  tell('cameras');
}

function tell(kind, detail) {
  feed.dispatchEvent(new CustomEvent(kind, { detail }));
}

function connectionIs(state, reason = '') {
  if (connection.state === state && connection.reason === reason) return;
  Object.assign(connection, { state, reason });
  tell('connection');
}

async function run() {
  running = new AbortController();
  const { signal } = running;
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      await connect(signal, () => (failures = 0));
    } catch (error) {
      if (signal.aborted) return;
      // A fault of the page is shown, and not hidden as a lost connection.
      if (!(error instanceof ApiError)) throw error;
      connectionIs('lost', error.message);
    }
    await pause(PAUSES[Math.min(failures, PAUSES.length - 1)], signal);
  }
}

/** Reads the rights and the state, then the stream until it ends. */
async function connect(signal, opened) {
  await readSession(signal);
  daemon = await get('status', {}, signal);
  await readCameras(signal);
  if (!lastId) {
    const newest = (await get('events', { limit: 1 }, signal)).events[0];
    // Sequences begin at 1, so that a new journal is read from its start.
    lastId = newest ? eventId(newest) : `${daemon.run}.0`;
  }
  opened();
  connectionIs('open');
  tell('refresh');
  for await (const { id, data } of stream('events', { lastId, signal })) receive(id, data);
  if (!signal.aborted) connectionIs('lost', 'The daemon ended the connection.');
}

function receive(id, event) {
  if (event.kind === 'missed_events') {
    tell('refresh');
    return;
  }
  lastId = id;
  const camera = cameras.get(event.camera);
  // A camera that was added begins with its state.
  if (!camera && event.kind === 'camera_status') readCameras().catch(() => {});
  if (camera && event.kind === 'camera_status') {
    const { state, since, reason, last_frame_at, reconnects, decoder } = event;
    Object.assign(camera, { state, since, reason, last_frame_at, reconnects, decoder });
    tell('cameras');
  }
  tell('event', event);
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
