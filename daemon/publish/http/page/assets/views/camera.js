// The view of a camera: its live video, or the newest frame that the model saw, and its newest
// events.

import { eventId, frameUrl, get } from '../api.js';
import { h, link, setText, show } from '../dom.js';
import { cameras, connection, on, readCameras } from '../feed.js';
import { empty, head, loading, pill, problem, statePill } from '../parts.js';
import { may } from '../session.js';
import { ago, at, clock, length, moment } from '../time.js';
import { bytes, count, coverage, STATES } from '../words.js';
import { LiveVideo } from '../video.js';
import { newestSlow } from '../alert_parts.js';

const EVENTS = 40;

export const camera = { path: 'camera', title: 'Camera', icon: null, open };

function open(root, parameters, signal) {
  const name = parameters.get('name') ?? '';
  const state = h('span', {});
  const reason = h('p', { class: 'tile-reason', hidden: true });
  const screen = new Screen(name, signal);
  const list = h('ol', { class: 'camera-events' });
  const facts = h('div', {});
  const ask = may('ask') && link('ask', { camera: name, last: '10m' }, { class: 'button' }, 'Ask');
  const timeline = link('timeline', { camera: name }, { class: 'button quiet' }, 'Timeline');
  const body = h('div', { class: 'event' },
    h('div', { class: 'event-main' }, reason, screen.element, facts),
    h('aside', { class: 'event-side' }, h('section', { class: 'panel' }, h('h2', {}, 'Newest events'), list)));
  const place = h('div', {}, loading());
  show(root, head(name, state, h('div', { class: 'head-actions' }, ask, timeline)), place);
  let shown = '';

  const showState = () => {
    const known = cameras.get(name);
    if (!known) return;
    if (shown !== known.state) show(state, statePill(known.state));
    if (shown && shown !== 'live' && known.state === 'live') screen.retry();
    shown = known.state;
    reason.hidden = known.state === 'live' || !known.reason;
    setText(reason, known.reason ? `Since ${clock(known.since)}: ${known.reason}` : '');
    show(facts, h('p', { class: 'head-note' }, [
      known.source, `${count(known.buffer_frames, 'frame')} in the buffer, ${bytes(known.buffer_bytes)}`,
      known.oldest_frame_at ? `reaches back ${ago(known.oldest_frame_at).replace(' ago', '')}` : null,
      known.reconnects ? count(known.reconnects, 'reconnect') : null,
    ].filter(Boolean).join(' · ')));
  };
  const refresh = async () => {
    try {
      if (!cameras.has(name)) {
        show(place, empty(`No camera is named ${name}`, 'It was removed from the config, or the link is misspelt.'));
        return;
      }
      showState();
      const { events } = await get('events', { camera: name, limit: EVENTS }, signal);
      show(list, events.filter(isListed).map(item));
      screen.setCaption(events.find((event) => event.kind === 'caption'));
      if (!body.isConnected) show(place, body);
      screen.begin();
    } catch (error) {
      if (!signal.aborted && !error.isAway) show(place, problem(error));
    }
  };
  on('refresh', refresh, signal);
  on('cameras', showState, signal);
  on('event', (event) => {
    if (event.camera !== name) return;
    if (event.kind === 'caption') screen.setCaption(event);
    if (!isListed(event)) return;
    list.prepend(item(event));
    while (list.children.length > EVENTS) list.lastChild.remove();
  }, signal);
  const timer = setInterval(() => connection.state === 'open' && readCameras(signal).catch(() => {}), 10000);
  signal.addEventListener('abort', () => clearInterval(timer));
  if (connection.state === 'open') refresh();
}

/** The picture of a camera: live video, with the newest frame below it until it plays. */
class Screen {
  constructor(name, signal) {
    this.name = name;
    this.image = h('img', { alt: `Newest frame of ${name}`, decoding: 'async', hidden: true });
    this.image.addEventListener('load', () => (this.image.hidden = false));
    this.video = h('video', { muted: true, playsinline: true, autoplay: true, 'aria-label': `Live video of ${name}`, hidden: true });
    this.video.muted = true;
    this.label = h('span', { class: 'tile-age' });
    this.note = h('p', { class: 'head-note', role: 'status' });
    this.text = h('p', { class: 'event-text', 'aria-live': 'polite' });
    this.element = h('figure', { class: 'screen' }, h('div', { class: 'frame' }, this.image, this.video, this.label), this.note, this.text);
    this.live = new LiveVideo(name, this.video, (state, reason) => this.videoIs(state, reason));
    const visible = () => (document.hidden ? this.live.stop() : this.begin());
    document.addEventListener('visibilitychange', visible, { signal });
    signal.addEventListener('abort', () => this.live.stop());
  }

  begin() {
    this.live.start();
  }

  retry() {
    this.live.stop();
    this.live.start();
  }

  videoIs(state, reason) {
    const isPlaying = state === 'playing';
    this.video.hidden = !isPlaying;
    this.element.classList.toggle('is-playing', isPlaying);
    setText(this.label, isPlaying ? 'Live video' : 'Newest frame');
    setText(this.note, isPlaying ? '' : reason && `${reason} The newest frame that the model saw is shown.`);
  }

  setCaption(event) {
    if (!event) return;
    const frame = newestSlow(event.frames);
    if (frame) this.image.src = frameUrl(this.name, frame);
    setText(this.text, event.unchanged ? `Unchanged since ${clock(event.unchanged.since)}.` : event.text);
  }
}

/** Captions without change fill the list with nothing. */
function isListed(event) {
  return !event.unchanged && event.kind !== 'rule_status';
}

function item(event) {
  const id = eventId(event);
  const [time, words, more] = {
    caption: () => [event.window.to, event.text, `${coverage(event.coverage)} · ${length(event.timing.total_seconds)}`],
    answer: () => [event.published_at, event.text, event.prompt],
    alert: () => [event.window.to, `${event.rule}: ${phase(event)}`, event.question],
    camera_status: () => [event.since, STATES[event.state]?.word ?? event.state, event.reason],
  }[event.kind]();
  return h('li', { class: `is-${event.kind}` }, link('event', { id }, {},
    h('time', { datetime: new Date(at(time)).toISOString() }, moment(time)),
    event.kind === 'alert' ? pill('bad', words) : h('span', {}, words),
    more ? h('small', {}, more) : null));
}

function phase({ phase, update }) {
  return { new: 'alert', end: 'ended', acknowledged: 'acknowledged', update: { scores: 'goes on', description: 'described', clip: 'clip made' }[update] }[phase];
}
