// The view Cameras: adds, changes, pauses and removes cameras of the running daemon.

import { get, send } from '../api.js';
import { h, link, setText, show } from '../dom.js';
import { cameras as running, connection, on, readCameras } from '../feed.js';
import { head, loading, pill, problem, statePill } from '../parts.js';
import { mayChangeCameras } from '../session.js';
import { clock } from '../time.js';
import { CameraForm } from './camera_form.js';

const READ_EVERY = 5000;

export const cameras = {
  path: 'cameras',
  title: 'Cameras',
  icon: 'M3 7h12v10H3zM15 10.5l6-3.5v10l-6-3.5',
  isFor: mayChangeCameras,
  open,
};

function open(root, _parameters, signal) {
  const done = h('p', { class: 'head-note', role: 'status' });
  const add = h('button', { type: 'button' }, 'Add a camera');
  const form = h('div', {});
  const list = h('div', { class: 'camera-cards' }, loading());
  show(root, head('Cameras', done, h('div', { class: 'head-actions' }, add)), form, list);

  const refresh = async () => {
    try {
      const [{ cameras: configured }] = await Promise.all([get('config/cameras', {}, signal), readCameras(signal)]);
      const before = new Map([...list.children].map((card) => [card.dataset.camera, card]));
      const cards = configured.map((camera) => {
        const known = before.get(camera.name);
        const isSame = known && known.dataset.shown === shown(camera);
        return isSame ? known : card(camera, actions);
      });
      // What did not change keeps its focus.
      if (cards.length !== list.children.length || cards.some((card, at) => card !== list.children[at])) show(list, cards);
    } catch (error) {
      if (!signal.aborted && !error.isAway) show(list, problem(error));
    }
  };
  const changed = async ({ changes }) => {
    setText(done, changes.length ? `${changes.join('. ')}.` : 'Nothing has changed.');
    await refresh();
  };
  const edit = (camera) => {
    const made = new CameraForm(camera, async (reply) => {
      close();
      if (reply) await changed(reply);
    });
    show(form, made.element);
    made.focus();
  };
  const close = () => {
    show(form);
    add.focus();
  };
  const actions = { edit, changed };
  add.addEventListener('click', () => edit(null));
  on('refresh', refresh, signal);
  on('event', (event) => event.kind === 'camera_status' && refresh(), signal);
  const timer = setInterval(() => connection.state === 'open' && !document.hidden && refresh(), READ_EVERY);
  signal.addEventListener('abort', () => clearInterval(timer));
  if (connection.state === 'open') refresh();
}

/** Returns what the card of a camera shows, to see if it differs. */
function shown(camera) {
  const { state, reason, since } = running.get(camera.name) ?? {};
  return JSON.stringify([camera, state, reason, since]);
}

function card(camera, { edit, changed }) {
  const { name, config_place: place, settings } = camera;
  const state = running.get(name);
  const error = h('div', {});
  const button = (text, act) => {
    const made = h('button', { type: 'button', class: 'quiet', 'aria-label': `${text} ${name}` }, text);
    made.addEventListener('click', () => act(made));
    return made;
  };
  const request = (method, path) => async (pressed) => {
    pressed.disabled = true;
    try {
      await changed(await send(method, path));
    } catch (refused) {
      show(error, problem(refused));
    }
    pressed.disabled = false;
    // The card was made again with its new state.
    if (!pressed.isConnected) document.querySelector(`.camera-card[data-camera="${CSS.escape(name)}"] button`)?.focus();
  };
  const path = `cameras/${encodeURIComponent(name)}`;
  const pausing = settings.paused
    ? button('Resume', request('POST', `${path}/resume`))
    : button('Pause', request('POST', `${path}/pause`));
  const remove = async (pressed) => {
    if (await confirmed(name)) await request('DELETE', path)(pressed);
    else pressed.focus();
  };
  const isAdded = place === null;
  return h('article', { class: 'panel camera-card', 'data-camera': name, 'data-shown': shown(camera), 'aria-label': `Camera ${name}` },
    h('div', { class: 'camera-card-head' }, h('h2', {}, state ? link('camera', { name }, {}, name) : name),
      state ? statePill(state.state) : pill('warn', 'Not running: reload the config')),
    state && !['live', 'paused'].includes(state.state) && state.reason ? h('p', { class: 'tile-reason' }, `Since ${clock(state.since)}: ${state.reason}`) : null,
    h('p', {}, settings.url ?? ''),
    h('p', { class: 'head-note' }, settings.captions === false ? 'No captions' : `Prompt: ${settings.caption_prompt ?? 'the default'}`),
    h('p', { class: 'head-note' }, isAdded ? 'Added while lookout was running.' : `In ${place}: change or remove it there, then run lookout reload.`),
    error,
    h('div', { class: 'actions' }, isAdded ? button('Edit', () => edit(camera)) : null, pausing, isAdded ? button('Remove', remove) : null));
}

/** Asks if a camera is to be removed. */
function confirmed(name) {
  const dialog = h('dialog', { 'aria-labelledby': 'remove-title' },
    h('h2', { id: 'remove-title' }, `Remove the camera ${name}?`),
    h('p', {}, 'Its frames in memory are dropped. Its events, and its frames on disk, stay as long as those of other cameras.'),
    h('form', { class: 'dialog-buttons', method: 'dialog' }, h('button', { value: 'remove' }, 'Remove'), h('button', { class: 'quiet', value: 'cancel' }, 'Cancel')));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'remove');
    });
  });
}
