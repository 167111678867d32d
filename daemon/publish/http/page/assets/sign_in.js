// The form that begins a session, and the dialog that shows it.

import { h, setText, show } from './dom.js';
import { session, signIn, signOut } from './session.js';
import { problem } from './parts.js';

/** What a role may do. */
const RIGHTS = {
  view: 'sees cameras, events and live video',
  ask: 'also asks questions, acknowledges alerts and keeps events',
  admin: 'also changes cameras and deletes events',
};

/** Shows the form that asks for a token. */
export function showSignIn(root) {
  const token = h('input', { id: 'token', type: 'password', required: true, autocomplete: 'current-password', spellcheck: 'false', 'aria-describedby': 'token-error' });
  const error = h('p', { id: 'token-error', class: 'field-error', role: 'alert' });
  const button = h('button', {}, 'Sign in');
  const form = h('form', { class: 'panel sign-in' },
    h('h1', {}, 'Sign in'),
    session.why ? h('p', { class: 'sign-in-why', role: 'status' }, session.why) : null,
    h('label', { class: 'field' }, h('span', {}, 'Token'), token), error, button,
    h('p', { class: 'head-note' }, '`lookout token add` makes a token on the machine where lookout runs.'));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    button.disabled = true;
    setText(error, '');
    try {
      await signIn(token.value);
    } catch (refused) {
      token.setAttribute('aria-invalid', 'true');
      token.select();
      token.focus();
      if (refused.retryAfter === null) {
        setText(error, refused.message);
        button.disabled = false;
      } else {
        wait(error, button, refused.retryAfter);
      }
    }
  });
  show(root, form);
  token.focus();
}

/** Counts the seconds that the daemon wants the client to wait. */
function wait(error, button, seconds) {
  const end = Date.now() + seconds * 1000;
  setText(error, 'Too many wrong tokens came from this address.');
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    button.disabled = left > 0;
    setText(button, left > 0 ? `Try again in ${left} s` : 'Sign in');
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
}

/** Shows on the button who is signed in. Its dialog has the rights, and ends the session. */
export function showAccount() {
  const button = document.getElementById('account-button');
  button.hidden = session.state !== 'open' || session.token === null;
  setText(button, session.token ?? '');
  button.setAttribute('aria-label', `Signed in as ${session.token}`);
  button.onclick = () => openAccount();
}

function openAccount() {
  const dialog = document.getElementById('account');
  const row = (name, value) => [h('dt', {}, name), h('dd', {}, value)];
  const out = h('button', { type: 'button' }, 'Sign out');
  const place = h('div', {});
  out.addEventListener('click', () => signOut().catch((error) => show(place, problem(error))));
  show(dialog,
    h('h2', { id: 'account-title' }, 'Signed in'),
    h('dl', {}, row('Token', session.token), row('Role', `${session.role}: ${RIGHTS[session.role]}`),
      row('Cameras', session.cameras === null ? 'all' : session.cameras.join(', '))),
    place,
    h('form', { class: 'dialog-buttons', method: 'dialog' }, out, h('button', { class: 'quiet' }, 'Close')));
  dialog.showModal();
}
