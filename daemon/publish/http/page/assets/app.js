// Starts the page: the navigation, the keys, and the view that the address names.

import { h, icon, setText, show, viewOf } from './dom.js';
import { connection, on, start } from './feed.js';
import { empty, head, loading } from './parts.js';
import { session, sessions } from './session.js';
import { showAccount, showSignIn } from './sign_in.js';
import { ZONE } from './time.js';
import { VIEWS } from './views.js';

const main = document.getElementById('main');

/** The views that the navigation shows: those that the signed-in person may use. */
let listed = [];

/** The view that is open: the view, the end of its signal, and its receiver of new parameters. */
let open = null;

function route() {
  if (session.state !== 'open') return;
  const { path, parameters } = viewOf(location.hash);
  const view = VIEWS.find((view) => view.path === path) ?? VIEWS[0];
  mark(view);
  if (open?.view === view && open.change) {
    open.change(parameters);
    return;
  }
  const isFirst = open === null;
  open?.end.abort();
  const end = new AbortController();
  const root = h('div', { class: ['view', `view-${view.path}`] });
  document.title = `${view.title} · lookout`;
  show(main, root);
  open = { view, end, change: isFor(view) ? view.open(root, parameters, end.signal) : forbidden(root, view) };
  if (!isFirst) {
    main.scrollTop = 0;
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function isFor(view) {
  return view.isFor?.() ?? true;
}

function forbidden(root, view) {
  show(root, head(view.title), empty('This view needs another token', `The token ${session.token} has the role ${session.role}.`));
}

/** Shows the views, or the form for a token instead of them. */
function showSession() {
  const isOpen = session.state === 'open';
  listed = isOpen ? VIEWS.filter((view) => view.icon && isFor(view)) : [];
  showNavigation();
  showAccount();
  document.getElementById('keys-button').hidden = !isOpen;
  if (isOpen) {
    route();
    return;
  }
  open?.end.abort();
  open = null;
  document.querySelectorAll('dialog[open]').forEach((dialog) => dialog.close());
  document.title = 'Sign in · lookout';
  showSignIn(main);
}

function mark(view) {
  for (const item of document.querySelectorAll('#nav a')) {
    if (item.dataset.view === view.path) item.setAttribute('aria-current', 'page');
    else item.removeAttribute('aria-current');
  }
}

function showNavigation() {
  const items = listed.map((view) =>
    h('a', { href: `#/${view.path}`, 'data-view': view.path }, icon(view.icon), h('span', {}, view.title)),
  );
  show(document.getElementById('nav'), items);
}

function showConnection() {
  const words = { connecting: 'Connecting…', open: 'Connected', lost: 'Connection lost', signed_out: 'Signed out' };
  const shown = document.getElementById('connection');
  shown.className = `is-${connection.state}`;
  setText(shown, words[connection.state]);
  const banner = document.getElementById('banner');
  const text = connection.state === 'lost' ? `Connection lost. Trying again… ${connection.reason}` : '';
  banner.hidden = !text;
  setText(banner, text);
}

/** Keys that views handle themselves, as they say in their `keys`. */
function showKeys() {
  const rows = [
    ...listed.map((view, at) => [String(at + 1), view.title]),
    ...VIEWS.filter(isFor).flatMap((view) => view.keys ?? []),
    ['?', 'This list'],
    ['Esc', 'Close'],
  ];
  const dialog = document.getElementById('keys');
  show(
    dialog,
    h('h2', { id: 'keys-title' }, 'Keys'),
    h('dl', {}, rows.map(([key, meaning]) => [h('dt', {}, h('kbd', {}, key)), h('dd', {}, meaning)])),
    h('form', { method: 'dialog' }, h('button', { class: 'quiet' }, 'Close')),
  );
  dialog.showModal();
}

function pressed(event) {
  const isText = event.target.closest?.('input, textarea, select, [contenteditable]');
  if (isText || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === '?' && session.state === 'open') showKeys();
  const view = listed[Number(event.key) - 1];
  if (view) location.hash = `#/${view.path}`;
}

show(main, loading());
setText(document.getElementById('zone'), `Times in ${ZONE}`);
showConnection();
on('connection', showConnection);
sessions.addEventListener('changed', showSession);
document.addEventListener('keydown', pressed);
document.getElementById('keys-button').addEventListener('click', showKeys);
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener('hashchange', route);
start();
