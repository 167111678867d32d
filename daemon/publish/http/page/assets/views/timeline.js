// The view Timeline: the captions, alerts and gaps of each camera over hours or days.

import { eventId } from '../api.js';
import { address, h, link, setText, show, viewOf } from '../dom.js';
import { cameras, connection, on } from '../feed.js';
import { empty, head, loading, problem } from '../parts.js';
import { may } from '../session.js';
import { at, length, span } from '../time.js';
import { count } from '../words.js';
import { TimelineData } from './timeline_data.js';
import { Details, list } from './timeline_details.js';
import { listen } from './timeline_input.js';
import { AXIS, Painter } from './timeline_paint.js';

const HOUR = 3600000;
const SPANS = [['1h', HOUR], ['6h', 6 * HOUR], ['24h', 24 * HOUR], ['7d', 168 * HOUR]];
const SHORTEST = 10000;
const LONGEST = 60 * 24 * HOUR;

/** Pause after a movement before its data are read, and the interval while the view follows now. */
const SETTLED = 180;
const FOLLOW = 20000;

export const timeline = {
  path: 'timeline',
  title: 'Timeline',
  icon: 'M3 6h11M3 12h18M9 18h12M17 4v4M6 10v4M13 16v4',
  keys: [['← →', 'Timeline: move the cursor; with Shift, select'], ['↑ ↓', 'Timeline: another camera'], ['+ −', 'Timeline: zoom'], ['Page ↑ ↓', 'Timeline: earlier, later'], ['Home', 'Timeline: now'], ['Enter', 'Timeline: open the event']],
  open,
};

function open(root, parameters, signal) {
  const place = h('div', {}, loading());
  show(root, place);
  let view = null;
  const arrange = () => {
    if (cameras.size === 0) show(place, empty('No camera is configured', 'Add a [[camera]] to lookout.toml and restart lookout.'));
    else if (view) view.arrange();
    else {
      view = new Timeline(signal);
      show(place, view.element);
      view.take(parameters);
    }
  };
  on('refresh', () => (view ? view.load() : arrange()), signal);
  on('cameras', arrange, signal);
  on('event', (event) => view?.add(event), signal);
  if (connection.state === 'open' || cameras.size) arrange();
  return (changed) => view?.take(changed);
}

class Timeline {
  constructor(signal) {
    this.signal = signal;
    this.only = [];
    this.lanes = [];
    this.laneHeight = 46;
    [this.from, this.to] = [Date.now() - HOUR, Date.now()];
    this.isFollowing = true;
    this.isSelecting = false;
    this.cursor = null;
    this.selection = null;
    this.data = new TimelineData(signal, () => this.dataChanged());
    this.details = new Details(this.data, signal);
    this.build();
    this.painter = new Painter(this.canvas);
    listen(this.box, this.canvas, this, signal);
    new ResizeObserver(() => this.paint()).observe(this.box);
    window.addEventListener('scroll', () => this.paint(), { signal, passive: true });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      this.painter.readColours();
      this.paint();
    }, { signal });
    const timers = [setInterval(() => this.tick(), 1000), setInterval(() => this.isFollowing && !document.hidden && this.load(), FOLLOW)];
    signal.addEventListener('abort', () => timers.forEach(clearInterval));
  }

  build() {
    const button = (text, action, properties = {}) => {
      const made = h('button', { type: 'button', class: 'quiet', ...properties }, text);
      made.addEventListener('click', action);
      return made;
    };
    this.spans = SPANS.map(([name, length]) => button(name, () => this.follow(length), { 'aria-pressed': 'false', 'data-length': length }));
    this.selecting = button('Select', () => {
      this.isSelecting = !this.isSelecting;
      this.selecting.setAttribute('aria-pressed', String(this.isSelecting));
    }, { 'aria-pressed': 'false', title: 'Dragging selects a range' });
    const zoom = (factor) => () => {
      const middle = (this.from + this.to) / 2;
      this.moveTo(middle - (middle - this.from) * factor, middle + (this.to - middle) * factor);
    };
    const tools = h('div', { class: 'timeline-tools' },
      h('div', { class: 'group', role: 'group', 'aria-label': 'Length' }, this.spans),
      h('div', { class: 'group', role: 'group', 'aria-label': 'Zoom' }, button('−', zoom(2), { 'aria-label': 'Zoom out' }), button('+', zoom(0.5), { 'aria-label': 'Zoom in' })),
      button('Now', () => this.follow()), this.selecting);
    this.title = h('p', { class: 'head-note', role: 'status' });
    this.labels = h('div', { class: 'lane-labels' });
    this.canvas = h('canvas', { 'aria-hidden': 'true' });
    this.box = h('div', { class: 'lanes', tabindex: '0', role: 'application', 'aria-label': 'Timeline. Arrow keys move the cursor, plus and minus zoom, Enter opens the event.' }, this.canvas);
    this.note = h('div', { class: 'timeline-note' });
    this.chosen = h('div', { class: 'selection', role: 'status' });
    this.list = h('div', { class: 'panel timeline-list' });
    this.element = h('div', { class: 'timeline' },
      head('Timeline', this.title, tools), this.note, this.chosen,
      h('div', { class: 'panel lane-panel' }, this.labels, this.box),
      h('p', { class: 'legend' }, key('key-caption', 'caption'), key('key-unchanged', 'unchanged'), key('key-alert', 'alert'), key('key-gap', 'gap'), key('key-answer', 'answer'),
        h('span', { class: 'legend-hint' }, 'Scroll to zoom, drag to move, Shift and drag to select.')),
      h('div', { class: 'timeline-below' }, this.details.element, this.list));
  }

  /** Takes the parameters of the address. */
  take(parameters) {
    this.only = parameters.getAll('camera').filter((name) => cameras.has(name));
    const time = (name) => (/^\d+$/.test(parameters.get(name) ?? '') ? Number(parameters.get(name)) : at(parameters.get(name) ?? ''));
    const [from, to] = [time('from'), time('to')];
    this.arrange();
    if (from && to > from) this.moveTo(from, to);
    else this.follow(SPANS.find(([name]) => name === parameters.get('last'))?.[1] ?? this.to - this.from);
  }

  arrange() {
    const lanes = this.only.length ? this.only : [...cameras.keys()];
    if (lanes.join('\n') !== this.lanes.join('\n')) {
      this.lanes = lanes;
      this.laneHeight = lanes.length > 8 ? 34 : 46;
      this.element.style.setProperty('--lane', `${this.laneHeight}px`);
      show(this.labels, h('div', { class: 'lane-axis' }, this.only.length && cameras.size > 1 ? link('timeline', {}, {}, 'All cameras') : null),
        lanes.map((name) => link('timeline', { camera: name }, { class: 'lane-label', title: name }, name)));
      this.load();
    }
    this.paint();
  }

  /** Shows a span up to now, and keeps it there. */
  follow(length = this.to - this.from) {
    this.isFollowing = true;
    this.moveTo(Date.now() - length, Date.now(), true);
  }

  moveTo(from, to, isFollowing = false) {
    const now = Date.now();
    const length = Math.min(LONGEST, Math.max(SHORTEST, to - from));
    const end = Math.min(now + length * 0.02, from + (to - from) / 2 + length / 2);
    [this.from, this.to] = [end - length, end];
    this.isFollowing = isFollowing || end >= now - length * 0.01;
    this.paint();
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settled(), SETTLED);
  }

  settled() {
    // The address may be that of another view, which `route` has not opened yet.
    if (this.signal.aborted || viewOf(location.hash).path !== 'timeline') return;
    const range = this.isFollowing ? { last: SPANS.find(([, length]) => Math.abs(length - (this.to - this.from)) < 1000)?.[0] } : { from: Math.round(this.from), to: Math.round(this.to) };
    history.replaceState(null, '', address('timeline', { camera: this.only, ...range }));
    this.load();
  }

  load() {
    if (this.lanes.length) this.data.load(this.from, this.to, this.only);
  }

  tick() {
    if (document.hidden || !this.isFollowing) return;
    const length = this.to - this.from;
    this.to = Date.now() + length * 0.02;
    this.from = this.to - length;
    this.paint();
  }

  add(event) {
    this.data.add(event);
    this.paint();
  }

  dataChanged() {
    show(this.note, this.data.error && !this.data.error.isAway ? problem(this.data.error) : null);
    show(this.list, list(this.data, this.lanes, this.from, this.to, (from, to) => this.moveTo(from, to)));
    if (this.cursor) this.details.refresh();
    this.paint();
  }

  setCursor(time, lane) {
    this.cursor = { time: Math.min(time, Date.now()), lane };
    const margin = (this.to - this.from) * 0.02;
    if (time < this.from + margin || time > this.to - margin) {
      const by = time < this.from + margin ? time - this.from - margin * 4 : time - this.to + margin * 4;
      if (time < Date.now()) this.moveTo(this.from + by, this.to + by);
    }
    this.details.show(this.lanes[lane], this.cursor.time);
    this.paint();
  }

  /** Shows in the tooltip what is under the pointer. */
  setHover(time, lane) {
    const text = time === null ? '' : this.details.summary(this.lanes[lane], time);
    if (this.canvas.title !== text) this.canvas.title = text;
  }

  select(from, to) {
    if (from === null) this.selection = null;
    else {
      const [start, end] = [Math.min(from, to), Math.min(Date.now(), Math.max(from, to))];
      this.selection = end > start ? { from: start, to: end } : null;
    }
    this.showSelection();
    this.paint();
  }

  /** Moves an end of the selection with the cursor. */
  extend(from, to) {
    const { selection } = this;
    const other = !selection ? from : Math.abs(selection.from - from) < Math.abs(selection.to - from) ? selection.to : selection.from;
    this.select(other, to);
  }

  showSelection() {
    if (!this.selection) {
      show(this.chosen);
      return;
    }
    const { from, to } = this.selection;
    const clear = h('button', { type: 'button', class: 'plain' }, 'Clear');
    clear.addEventListener('click', () => this.select(null));
    const zoomed = h('button', { type: 'button', class: 'plain' }, 'Zoom in');
    zoomed.addEventListener('click', () => this.moveTo(from, to));
    const camera = this.only.length ? this.only : this.cursor ? this.lanes[this.cursor.lane] : this.lanes;
    show(this.chosen, h('b', {}, span(from, to)), ` ${length((to - from) / 1000)} `,
      may('ask') && link('ask', { camera, from: Math.round(from), to: Math.round(to) }, { class: 'button' }, 'Ask about this'), zoomed, clear);
  }

  openEvent() {
    const event = this.details.event;
    if (event) location.hash = address('event', { id: eventId(event) });
  }

  paint() {
    if (this.isPainting) return;
    this.isPainting = true;
    requestAnimationFrame(() => {
      this.isPainting = false;
      if (this.signal.aborted || !this.box.isConnected) return;
      const height = AXIS + this.lanes.length * this.laneHeight;
      this.canvas.style.height = `${height}px`;
      this.painter.fit(this.box.clientWidth, height);
      this.painter.draw(this, this.data);
      setText(this.title, `${span(this.from, Math.min(this.to, Date.now()))}, ${count(this.data.count(this.from, this.to), 'caption')}`);
      for (const button of this.spans) button.setAttribute('aria-pressed', String(this.isFollowing && Math.abs(Number(button.dataset.length) - (this.to - this.from)) < 1000));
    });
  }
}

function key(name, text) {
  return h('span', {}, h('i', { class: name }), text);
}
