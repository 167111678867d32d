// Pieces that several views share.

import { frameUrl } from './api.js';
import { h } from './dom.js';
import { STATES } from './words.js';

/** The head of a view: its title, and what belongs beside it. */
export function head(title, ...beside) {
  return h('div', { class: 'head' }, h('h1', {}, title), beside);
}

/** A state as a word with a dot of its colour. */
export function pill(tone, text) {
  return h('span', { class: ['pill', `tone-${tone}`] }, text);
}

/** The state of a camera. */
export function statePill(state) {
  const { word, tone } = STATES[state] ?? { word: state, tone: 'idle' };
  return pill(tone, word);
}

/** A place without content: what is missing, and what to do. */
export function empty(title, ...more) {
  return h('div', { class: 'empty' }, h('h2', {}, title), more.map((text) => h('p', {}, text)));
}

/** An error as a sentence. */
export function problem(error, ...more) {
  return h('div', { class: 'problem', role: 'alert' }, h('p', {}, error.message ?? String(error)), more);
}

/** A line that says that something is being read. */
export function loading(text = 'Loading…') {
  return h('p', { class: 'loading', role: 'status' }, text);
}

/** The picture of a frame. One that has left the buffer is shown as an empty box. */
export function picture(camera, frame, alt, properties = {}) {
  const image = h('img', { src: frameUrl(camera, frame), alt, loading: 'lazy', decoding: 'async', ...properties });
  image.addEventListener('error', () => image.classList.add('is-gone'));
  return image;
}

/** Checkboxes for cameras. `chosen` is a set, which they change before they call `changed`. */
export function cameraChoice(names, chosen, changed) {
  const box = (name) => {
    const input = h('input', { type: 'checkbox', checked: chosen.has(name), value: name });
    input.addEventListener('change', () => {
      if (input.checked) chosen.add(name);
      else chosen.delete(name);
      changed();
    });
    return h('label', { class: 'chip' }, input, h('span', {}, name));
  };
  return h('fieldset', { class: 'chips' }, h('legend', {}, 'Cameras'), names.map(box));
}
