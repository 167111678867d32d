// The form of a camera: its keys as in lookout.toml. It shows each error next to its field, and never
// a user or a password.

import { send } from '../api.js';
import { h, setText, show } from '../dom.js';
import { problem } from '../parts.js';

/** A field: its key, its label, and the rest of its input. `more`: it is among the further ones. */
const FIELDS = [
  { key: 'url', label: 'Address', type: 'text', placeholder: 'rtsp://192.168.1.64:554/stream', autocomplete: 'off', spellcheck: 'false' },
  { key: 'transport', label: 'Transport', options: [['', 'Automatic: TCP, then UDP'], ['tcp', 'TCP'], ['udp', 'UDP']] },
  { key: 'caption_prompt', label: 'Prompt of the captions', type: 'text', placeholder: 'What is happening?' },
  { key: 'captions', label: 'Captions', options: [['', 'A caption for every window'], ['false', 'No captions, only answers']] },
  { key: 'fps', label: 'Frames per second', type: 'number', placeholder: '1', min: '0', step: 'any', more: true },
  { key: 'window', label: 'Window', type: 'text', placeholder: '50s', more: true },
  { key: 'caption_interval', label: 'Time between captions', type: 'text', placeholder: '10s', more: true },
  { key: 'unchanged_threshold', label: 'Change that counts as unchanged', type: 'number', placeholder: '0', min: '0', step: 'any', more: true },
  { key: 'decode_frames', label: 'Decoded frames', options: [['', 'All'], ['keyframes', 'Key frames only']], more: true },
  { key: 'stream', label: 'Video stream, from 0', type: 'number', placeholder: 'the first', min: '0', step: '1', more: true },
];

/** Keys whose texts are other values in JSON. */
const READ = { fps: Number, unchanged_threshold: Number, stream: Number, captions: (text) => text === 'true' };

/** The form to add a camera, or to edit `camera` of the config. */
export class CameraForm {
  /** @param {(reply: object | null) => any} closed Called with the reply, or `null` if cancelled. */
  constructor(camera, closed) {
    this.camera = camera;
    this.closed = closed;
    this.fields = new Map();
    this.failure = h('div', {});
    this.save = h('button', {}, camera ? 'Save' : 'Add');
    this.anyway = h('button', { type: 'button', class: 'quiet', hidden: true }, 'Add it anyway');
    this.state = h('span', { class: 'head-note', role: 'status' });
    const made = FIELDS.map((field) => [field, this.field(field)]);
    const further = (more) => made.filter(([field]) => Boolean(field.more) === more).map(([, element]) => element);
    const [first, ...others] = further(false);
    this.more = h('details', {}, h('summary', {}, 'More settings'), h('div', { class: 'camera-fields' }, further(true)));
    const cancel = h('button', { type: 'button', class: 'quiet' }, 'Cancel');
    this.element = h('form', { class: 'panel camera-form', novalidate: true, 'aria-labelledby': 'camera-form-title' },
      h('h2', { id: 'camera-form-title' }, camera ? `Camera ${camera.name}` : 'New camera'),
      h('div', { class: 'camera-fields' }, camera ? null : this.field({ key: 'name', label: 'Name', type: 'text', placeholder: 'yard', autocomplete: 'off', spellcheck: 'false' }),
        first,
        this.field({ key: 'username', label: 'User', type: 'text', autocomplete: 'off', spellcheck: 'false' }),
        this.field({ key: 'password', label: 'Password', type: 'password', autocomplete: 'new-password' }),
        others),
      this.more, this.failure,
      h('div', { class: 'camera-form-buttons' }, this.save, this.anyway, cancel, this.state));
    this.element.addEventListener('submit', (event) => {
      event.preventDefault();
      this.send(false);
    });
    this.anyway.addEventListener('click', () => this.send(true));
    cancel.addEventListener('click', () => closed(null));
  }

  focus() {
    this.fields.values().next().value.input.focus();
  }

  field({ key, label, options, more: _more, ...properties }) {
    const id = `camera-${key}`;
    const about = { id, 'aria-describedby': `${id}-error` };
    const input = options ? h('select', about, options.map(([value, text]) => h('option', { value }, text))) : h('input', { ...about, ...properties });
    input.value = this.before(key);
    const error = h('p', { class: 'field-error', id: `${id}-error` });
    this.fields.set(key, { input, error, before: input.value });
    return h('div', { class: ['camera-field', `is-${key}`] }, h('label', { class: 'field' }, h('span', {}, label), input), this.hint(key), error);
  }

  /** Returns the text of a key before the change. An address with hidden parts is not filled in. */
  before(key) {
    const value = this.camera?.settings[key];
    if (value === undefined || (key === 'url' && this.camera.hides_credentials)) return '';
    return String(value);
  }

  hint(key) {
    if (key !== 'url' || !this.camera?.hides_credentials) return null;
    return h('p', { class: 'head-note' }, `Now ${this.camera.settings.url}. Its user and password are not shown; leave the field empty to keep them.`);
  }

  text(key) {
    return this.fields.get(key)?.input.value.trim() ?? '';
  }

  /** Returns the keys that were changed. `null` removes one. */
  settings() {
    const changed = {};
    for (const { key } of FIELDS) {
      const { before } = this.fields.get(key);
      const text = this.text(key);
      if (text !== before.trim()) changed[key] = text === '' ? null : (READ[key] ?? String)(text);
    }
    const [user, password] = [this.text('username'), this.fields.get('password').input.value];
    if (user || password) {
      const address = this.text('url');
      if (!address) throw { field: 'url', message: 'Type the whole address to change the user or the password.' };
      if (!user) throw { field: 'username', message: 'A password needs a user.' };
      const end = password ? `:${encodeURIComponent(password)}` : '';
      changed.url = address.replace(/^([^:/]+:\/\/)(?:[^/@]*@)?/, (_, scheme) => `${scheme}${encodeURIComponent(user)}${end}@`);
    }
    return changed;
  }

  async send(force) {
    for (const { input, error } of this.fields.values()) {
      setText(error, '');
      input.removeAttribute('aria-invalid');
    }
    show(this.failure);
    this.anyway.hidden = true;
    this.isBusy(true);
    try {
      const settings = this.settings();
      const reply = this.camera
        ? await send('PATCH', `cameras/${encodeURIComponent(this.camera.name)}`, { settings })
        : await send('POST', 'cameras', { name: this.text('name'), settings, force });
      await this.closed(reply);
    } catch (refused) {
      this.refuse(refused);
    }
    this.isBusy(false);
  }

  isBusy(is) {
    this.save.disabled = is;
    this.anyway.disabled = is;
    setText(this.state, is ? (this.camera ? 'Saving…' : 'Waiting for the first frame, up to 10 s…') : '');
  }

  /** Shows an error next to its field. */
  refuse(refused) {
    this.anyway.hidden = refused.reason !== 'CAMERA_UNREACHABLE';
    const field = this.fields.get(refused.field);
    if (!field) {
      show(this.failure, problem(refused));
      return;
    }
    setText(field.error, refused.message);
    field.input.setAttribute('aria-invalid', 'true');
    if (this.more.contains(field.input)) this.more.open = true;
    field.input.focus();
  }
}
