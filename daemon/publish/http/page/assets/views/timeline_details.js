// What the timeline says about the place of its cursor, and its gaps and alerts as a list.

import { eventId } from '../api.js';
import { h, link, show } from '../dom.js';
import { picture } from '../parts.js';
import { may } from '../session.js';
import { at, clock, length, moment, span } from '../time.js';
import { CAUSES, count, coverage } from '../words.js';

/** Number of gaps and alerts in the list. */
const LISTED = 40;

/** Pause before the caption at the cursor is read. */
const PAUSE = 120;

/** The panel about the place of the cursor. */
export class Details {
  constructor(data, signal) {
    this.data = data;
    this.signal = signal;
    this.event = null;
    this.element = h('section', { class: 'panel timeline-details', 'aria-label': 'At the cursor', 'aria-live': 'polite' },
      h('p', { class: 'quiet-text' }, 'Click a place on the timeline, or move the cursor by the arrow keys, to see what the camera saw.'));
  }

  /** Shows a camera at a time. */
  show(camera, time) {
    [this.camera, this.time] = [camera, time];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), PAUSE);
  }

  async refresh() {
    const { camera, time } = this;
    const gap = this.data.gapAt(camera, time);
    const alert = this.data.alertAt(camera, time);
    const isWhole = gap && this.data.cameras.get(camera)?.gaps.includes(gap);
    this.reading?.abort();
    this.reading = new AbortController();
    const { signal } = this.reading;
    this.signal.addEventListener('abort', () => this.reading.abort(), { once: true });
    const event = isWhole ? null : await this.data.captionAt(camera, time, signal).catch(() => null);
    if (signal.aborted) return;
    const shown = [camera, time, event && eventId(event), alert?.phase, gap?.from, gap?.to].join();
    if (shown === this.shown) return;
    [this.shown, this.event] = [shown, event];
    show(this.element, h('h2', {}, `${camera}, ${moment(time)}`),
      alert ? h('p', { class: 'is-alert' }, h('b', {}, alert.rule), `: ${alert.question} `, span(alert.started_at, alert.ended_at ?? Date.now())) : null,
      gap ? h('p', { class: 'is-gap' }, gapText(gap)) : null,
      event ? caption(event) : gap ? null : h('p', { class: 'quiet-text' }, 'No caption.'));
  }

  /** Returns a short text about a place. */
  summary(camera, time) {
    const gap = this.data.gapAt(camera, time);
    const alert = this.data.alertAt(camera, time);
    const lane = this.data.cameras.get(camera);
    const number = lane?.captions[Math.floor((time - this.data.from) / this.data.bucket)] ?? 0;
    const what = gap ? gapText(gap) : this.data.captions ? '' : count(number, 'caption');
    return [`${camera}, ${moment(time)}`, alert ? `Alert: ${alert.rule}` : '', what].filter(Boolean).join('\n');
  }
}

function caption(event) {
  const frame = event.frames.findLast((frame) => frame.slow) ?? event.frames[0];
  return h('div', { class: 'timeline-caption' },
    frame ? picture(event.camera, frame, `${event.camera} at ${clock(frame.captured_at)}`) : null,
    h('div', {}, h('p', { class: 'timeline-text' }, event.unchanged ? `Unchanged since ${clock(event.unchanged.since)}.` : event.text),
      h('p', { class: 'quiet-text' }, `${span(event.window.from, event.window.to)} · ${coverage(event.coverage)}`),
      h('p', { class: 'timeline-links' }, link('event', { id: eventId(event) }, {}, 'Details'), may('ask') && link('ask', { camera: event.camera, event: eventId(event) }, {}, 'Ask about this'))));
}

function gapText(gap) {
  const reason = gap.reason ? `: ${gap.reason}` : '';
  return `Gap of ${length((gap.to - gap.from) / 1000)}. ${CAUSES[gap.cause] ?? gap.cause}${reason}.`;
}

/** Makes one entry of gaps that several cameras have at the same time. */
function together(gaps) {
  const found = new Map();
  for (const gap of gaps) {
    const key = [Math.round(gap.at / 1000), Math.round(gap.end / 1000), gap.what].join();
    const known = found.get(key);
    if (known) known.camera += `, ${gap.camera}`;
    else found.set(key, gap);
  }
  return [...found.values()];
}

/** Returns the gaps and alerts of the lanes within a span, the newest first. `go` shows a span. */
export function list(data, lanes, from, to, go) {
  const within = (start, end) => end > from && start < to;
  const gaps = together(lanes.flatMap((camera) => (data.cameras.get(camera)?.gaps ?? []).filter((gap) => within(gap.from, gap.to))
    .map((gap) => ({ at: gap.from, end: gap.to, camera, what: `${CAUSES[gap.cause] ?? gap.cause}${gap.reason ? `: ${gap.reason}` : ''}`, tone: 'gap' }))));
  const alerts = [...data.alerts.values()].filter((alert) => lanes.includes(alert.camera) && within(at(alert.started_at), alert.ended_at ? at(alert.ended_at) : Date.now()))
    .map((alert) => ({ at: at(alert.started_at), end: alert.ended_at ? at(alert.ended_at) : Date.now(), camera: alert.camera, what: `Alert: ${alert.rule}`, tone: 'alert' }));
  const all = [...gaps, ...alerts].sort((a, b) => b.at - a.at);
  const item = ({ at: start, end, camera, what, tone }) => {
    const button = h('button', { type: 'button', class: 'plain' }, span(start, end));
    button.addEventListener('click', () => go(start - (end - start) / 2 - 5000, end + (end - start) / 2 + 5000));
    return h('li', { class: `is-${tone}` }, h('b', {}, camera), h('span', {}, what), button);
  };
  return [
    h('h2', {}, 'Gaps and alerts in view'),
    all.length ? h('ul', {}, all.slice(0, LISTED).map(item)) : h('p', { class: 'quiet-text' }, data.isLoaded ? 'None: every camera has captions for the whole time.' : 'Loading…'),
    all.length > LISTED ? h('p', { class: 'quiet-text' }, `and ${all.length - LISTED} more. Zoom in to see them.`) : null,
  ];
}
