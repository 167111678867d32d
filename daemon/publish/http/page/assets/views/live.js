// The view Live: a tile per camera, with the newest frame that the model saw and its caption.
//
// Only what changed is updated, and pictures are loaded only for tiles that are on the screen.

import { eventId, frameUrl, get } from '../api.js';
import { h, link, setText, show } from '../dom.js';
import { cameras, connection, on, readCameras } from '../feed.js';
import { empty, head, loading, problem, statePill } from '../parts.js';
import { may } from '../session.js';
import { ago, clock, length } from '../time.js';
import { coverage } from '../words.js';
import { TileVideo, videoSwitch } from './tile_video.js';

/** Number of captions with which the view begins; a camera without one of them is asked about. */
const FIRST = 200;

/** Number of cameras up to which each tile has a strip of the frames that the model saw. */
const STRIPS = 9;

/** Number of frames in a strip. */
const STRIP = 4;

/** Interval at which the cameras are read again, for the time of their newest frame. */
const READ_EVERY = 10000;

export const live = {
  path: 'live',
  title: 'Live',
  icon: 'M3 5h8v6H3zM13 5h8v6h-8zM3 13h8v6H3zM13 13h8v6h-8z',
  open,
};

function open(root, _parameters, signal) {
  const tiles = new Map();
  const summary = h('p', { class: 'head-note', role: 'status' });
  const grid = h('div', { class: 'tiles' });
  const place = h('div', {}, loading());
  const plays = h('div', { class: 'head-actions' }, videoSwitch(() => playVideos()));
  show(root, head('Live', summary, plays), place);
  const playVideos = () => tiles.forEach((tile) => tile.video.update(tile.isSeen));

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const tile = tiles.get(entry.target.dataset.camera);
      if (!tile) continue;
      tile.isSeen = entry.isIntersecting;
      if (tile.isSeen) tile.showFrame();
      tile.video.update(tile.isSeen);
    }
  }, { rootMargin: '200px' });

  const arrange = () => {
    const names = [...cameras.keys()];
    const isSame = names.length === tiles.size && names.every((name, at) => grid.children[at]?.dataset.camera === name);
    if (!isSame) {
      for (const [name, tile] of tiles) if (!cameras.has(name)) drop(name, tile);
      for (const name of names) {
        if (!tiles.has(name)) {
          const tile = new Tile(name);
          tiles.set(name, tile);
          seen.observe(tile.element);
        }
      }
      grid.classList.toggle('has-strips', names.length <= STRIPS);
      show(grid, names.map((name) => tiles.get(name).element));
    }
    for (const [name, tile] of tiles) tile.setState(cameras.get(name));
    const alive = [...cameras.values()].filter((camera) => camera.state === 'live').length;
    setText(summary, names.length ? `${alive} of ${names.length} cameras live` : '');
    show(place, names.length ? grid : noCamera());
  };
  const drop = (name, tile) => {
    seen.unobserve(tile.element);
    tile.video.stop();
    tiles.delete(name);
  };
  const refresh = async () => {
    try {
      arrange();
      await readCaptions(tiles, signal);
    } catch (error) {
      if (!signal.aborted && !error.isAway) show(place, problem(error));
    }
  };

  on('refresh', refresh, signal);
  on('cameras', arrange, signal);
  on('event', (event) => {
    if (event.kind === 'caption') tiles.get(event.camera)?.setCaption(event);
    if (event.kind === 'alert') tiles.get(event.camera)?.setAlert(event);
  }, signal);
  document.addEventListener('visibilitychange', playVideos, { signal });
  const timers = [
    setInterval(() => tiles.forEach((tile) => tile.showAge()), 1000),
    setInterval(() => connection.state === 'open' && !document.hidden && readCameras(signal).catch(() => {}), READ_EVERY),
  ];
  signal.addEventListener('abort', () => {
    timers.forEach(clearInterval);
    seen.disconnect();
    tiles.forEach((tile) => tile.video.stop());
  });
  if (connection.state === 'open') refresh();
}

/** Gives each tile its newest caption. */
async function readCaptions(tiles, signal) {
  const { events } = await get('events', { kind: 'caption', limit: FIRST }, signal);
  const newest = new Map();
  for (const event of events) if (!newest.has(event.camera)) newest.set(event.camera, event);
  const others = [...tiles.keys()].filter((name) => !newest.has(name));
  const alone = others.map((camera) => get('events', { kind: 'caption', camera, limit: 1 }, signal));
  for (const page of await Promise.all(alone)) if (page.events[0]) newest.set(page.events[0].camera, page.events[0]);
  for (const [name, event] of newest) tiles.get(name)?.setCaption(event);
  for (const tile of tiles.values()) tile.isRead = true;
  tiles.forEach((tile) => tile.showText());
}

function noCamera() {
  return empty(
    'No camera is configured',
    'Add a [[camera]] with a name and an RTSP URL to lookout.toml, then restart lookout. The file configs/example.toml shows every key.',
  );
}

/** The tile of a camera. */
class Tile {
  constructor(name) {
    this.name = name;
    this.event = null;
    this.isSeen = false;
    this.isRead = false;
    this.image = h('img', { alt: '', decoding: 'async', hidden: true });
    this.image.addEventListener('load', () => (this.image.hidden = false));
    this.image.addEventListener('error', () => (this.image.hidden = true));
    this.video = new TileVideo(name, () => this.element);
    this.strip = Array.from({ length: STRIP }, () => h('img', { alt: '', decoding: 'async' }));
    this.state = h('span', { class: 'tile-state' });
    this.alert = h('span', { class: 'tile-alert', hidden: true });
    this.age = h('span', { class: 'tile-age' });
    this.text = h('p', { class: 'tile-text' });
    this.note = h('span', {});
    this.reason = h('p', { class: 'tile-reason', hidden: true });
    const links = h('span', { class: 'tile-links' },
      may('ask') && link('ask', { camera: name }, { 'aria-label': `Ask about ${name}` }, 'Ask'),
      link('timeline', { camera: name }, { 'aria-label': `Timeline of ${name}` }, 'Timeline'),
    );
    this.element = h('article', { class: 'tile', 'data-camera': name, 'aria-label': `Camera ${name}` },
      h('div', { class: 'tile-picture' }, h('span', { class: 'tile-none' }, 'No frame yet'), this.image, this.video.element,
        h('span', { class: 'tile-live' }, 'Live video'), this.alert, this.age),
      h('div', { class: 'tile-strip', 'aria-hidden': 'true' }, this.strip),
      h('div', { class: 'tile-body' },
        h('div', { class: 'tile-head' }, h('h2', {}, link('camera', { name }, {}, name)), this.state),
        this.reason, this.text,
        h('div', { class: 'tile-foot' }, this.note, links),
      ),
    );
  }

  /** Shows the camera's state, with the reason of one that is not live. */
  setState(camera) {
    if (!camera) return;
    const isLive = camera.state === 'live';
    if (this.shownState !== camera.state) {
      this.shownState = camera.state;
      show(this.state, statePill(camera.state));
      this.element.classList.toggle('is-down', !isLive);
    }
    this.reason.hidden = isLive || !camera.reason;
    setText(this.reason, isLive ? '' : `Since ${clock(camera.since)}: ${camera.reason}`);
  }

  setCaption(event) {
    if (this.event && eventId(this.event) === eventId(event)) return;
    const isOlder = this.event && (event.run - this.event.run || event.sequence - this.event.sequence) < 0;
    if (isOlder) return;
    this.event = event;
    this.element.dataset.event = eventId(event);
    this.showText();
    if (this.isSeen) this.showFrame();
  }

  /** Shows that an alert is active. */
  setAlert(alert) {
    this.alert.hidden = alert.ended_at !== null;
    setText(this.alert, alert.rule);
  }

  showText() {
    if (!this.event) {
      setText(this.text, this.isRead ? 'No caption yet.' : '');
      return;
    }
    const { text, unchanged, timing, window } = this.event;
    this.text.classList.toggle('is-unchanged', Boolean(unchanged));
    setText(this.text, unchanged ? `Unchanged since ${clock(unchanged.since)}.` : text);
    this.text.title = `${clock(window.from)} – ${clock(window.to)}`;
    setText(this.note, `${coverage(this.event.coverage)} · delay ${length(timing.total_seconds)}`);
    this.showAge();
  }

  showAge() {
    if (this.event) setText(this.age, ago(this.event.window.to));
  }

  /** Shows frames of the window in the strip, the oldest first. */
  showStrip(frames) {
    if (!this.element.parentElement?.classList.contains('has-strips')) return;
    const slow = frames.filter((frame) => frame.slow);
    const from = slow.length >= STRIP ? slow : frames;
    this.strip.forEach((image, at) => {
      const frame = from[Math.round((at * (from.length - 1)) / (STRIP - 1))];
      const source = frameUrl(this.name, frame);
      if (image.getAttribute('src') !== source) image.src = source;
    });
  }

  /** Loads the newest slow frame of the caption. An unchanged window has frames, too. */
  showFrame() {
    const frames = this.event?.frames ?? [];
    const frame = frames.findLast((frame) => frame.slow) ?? frames.at(-1);
    if (!frame) return;
    const source = frameUrl(this.name, frame);
    if (this.image.getAttribute('src') === source) return;
    this.image.alt = `${this.name} at ${clock(frame.captured_at)}`;
    this.image.src = source;
    this.showStrip(frames);
  }
}
