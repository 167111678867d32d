// The session: who is signed in, and what this person may do.
//
// The token is in a cookie that scripts cannot read. Without access control everybody may do
// everything, and `token` is `null`.

import { get, post, refusals, send } from './api.js';

const ROLES = ['view', 'ask', 'admin'];

/** The session. `state`: `unknown` until the daemon answers, `open`, or `needed`: sign in first.
 *  `cameras`: the names of those that are visible, or `null` for all. `why`: the reason of an end. */
export const session = { state: 'unknown', token: null, role: 'view', cameras: null, why: '' };

/** Reports by the message `changed` that the state is another one. */
export const sessions = new EventTarget();

/** Tells the other tabs of this browser that somebody has signed in or out. */
const tabs = new BroadcastChannel('lookout-session');

refusals.addEventListener('unauthorized', ({ detail: error }) => {
  if (session.state === 'needed') return;
  const hasEnded = error.reason === 'WRONG_TOKEN';
  Object.assign(session, { state: 'needed', why: hasEnded ? 'The session has ended, because its token expired or was revoked.' : '' });
  // Each request with a wrong token counts against this address.
  if (hasEnded) send('DELETE', 'session').catch(() => {});
  sessions.dispatchEvent(new CustomEvent('changed'));
});
tabs.addEventListener('message', () => location.reload());

/** Returns true if the role permits what needs `role`. */
export function may(role) {
  return ROLES.indexOf(session.role) >= ROLES.indexOf(role);
}

/** Returns true if this person may change cameras: a new camera would be hidden from others. */
export function mayChangeCameras() {
  return may('admin') && session.cameras === null;
}

/** Reads who is signed in. */
export async function readSession(signal) {
  const { token, role, cameras } = await get('access', {}, signal);
  const found = { state: 'open', token, role, cameras, why: '' };
  if (session.state === 'unknown') {
    Object.assign(session, found);
    sessions.dispatchEvent(new CustomEvent('changed'));
  } else if (JSON.stringify(session) !== JSON.stringify(found)) {
    location.reload();
  }
}

/** Begins a session with a token. The page begins again, at the same address. */
export async function signIn(token) {
  await post('session', { token });
  begin();
}

/** Ends the session. */
export async function signOut() {
  await send('DELETE', 'session');
  begin();
}

/** Loads the page again, so that nothing of another session stays in it. */
function begin() {
  tabs.postMessage('changed');
  location.reload();
}
