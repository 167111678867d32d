// The frames of an event as a film strip. The ones that the model saw in detail are marked.

import { frameUrl } from '../api.js';
import { h, setText, show } from '../dom.js';
import { clock } from '../time.js';

/** The strip and the chosen frame above it. `null` for an event without frames. */
export function filmStrip(event) {
  const frames = event.frames ?? [];
  if (frames.length === 0) return null;
  let chosen = frames.findLastIndex((frame) => frame.slow);
  if (chosen < 0) chosen = frames.length - 1;
  const image = h('img', { alt: '', decoding: 'async' });
  const gone = h('p', { class: 'frame-gone' }, 'This frame has left the buffer, and the journal does not store it.');
  const caption = h('figcaption', { 'aria-live': 'polite' });
  image.addEventListener('load', () => (gone.hidden = true));
  image.addEventListener('error', () => (gone.hidden = false));
  const buttons = frames.map((frame, number) => thumbnail(event.camera, frame, () => choose(number)));

  const choose = (number, focus = false) => {
    chosen = Math.min(frames.length - 1, Math.max(0, number));
    const frame = frames[chosen];
    image.alt = `${event.camera} at ${clock(frame.captured_at)}`;
    gone.hidden = true;
    image.src = frameUrl(event.camera, frame);
    setText(caption, `Frame ${chosen + 1} of ${frames.length}, ${clock(frame.captured_at)}, ${frame.slow ? 'seen in detail' : 'seen coarsely'}`);
    buttons.forEach((button, at) => {
      button.setAttribute('aria-pressed', String(at === chosen));
      button.tabIndex = at === chosen ? 0 : -1;
    });
    if (focus) buttons[chosen].focus({ preventScroll: true });
    const { parentElement: strip } = buttons[chosen];
    if (strip) strip.scrollLeft = buttons[chosen].offsetLeft - strip.clientWidth / 2 + buttons[chosen].clientWidth / 2;
  };
  const strip = h('div', { class: 'strip', role: 'group', 'aria-label': 'Frames' }, buttons);
  strip.addEventListener('keydown', (pressed) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -frames.length, End: frames.length }[pressed.key];
    if (!step) return;
    pressed.preventDefault();
    choose(chosen + step, true);
  });
  choose(chosen);
  requestAnimationFrame(() => choose(chosen));
  return h('figure', { class: 'frames' }, h('div', { class: 'frame' }, image, gone), caption, strip,
    h('p', { class: 'strip-key' }, h('span', { class: 'key-slow' }, 'Seen in detail'), h('span', { class: 'key-fast' }, 'Seen coarsely')));
}

function thumbnail(camera, frame, chosen) {
  const image = h('img', { src: frameUrl(camera, frame), alt: '', loading: 'lazy', decoding: 'async' });
  const button = h('button', { type: 'button', class: frame.slow ? 'is-slow' : 'is-fast', 'aria-label': `${clock(frame.captured_at)}, ${frame.slow ? 'seen in detail' : 'seen coarsely'}`, onclick: chosen }, image);
  image.addEventListener('error', () => show(button, h('span', {}, clock(frame.captured_at))));
  return button;
}
