// What the timeline draws: captions counted in buckets, gaps, alerts and answers; and the captions
// themselves where few enough are in view.

import { get } from '../api.js';
import { at } from '../time.js';

/** Number of buckets that are asked for: the span in view is half of them. */
const BUCKETS = 800;

/** Number of captions in view up to which each is read. */
const EXACT = 1000;

const PAGE = 200;

/** Number of pages of alerts and answers that are read. */
const MARK_PAGES = 5;

const iso = (time) => new Date(time).toISOString();

export class TimelineData {
  /** @param {() => void} changed Called when there is something new to draw. */
  constructor(signal, changed) {
    this.changed = changed;
    this.outer = signal;
    this.from = 0;
    this.bucket = 1;
    this.max = 1;
    /** Per camera: the counts of its buckets and its gaps. */
    this.cameras = new Map();
    /** Per camera: the captions in view, the oldest first; `null` if they are too many. */
    this.captions = null;
    this.alerts = new Map();
    this.answers = [];
    this.error = null;
    this.isLoaded = false;
  }

  /** Reads what a span needs; an earlier reading that goes on is given up. */
  async load(from, to, names) {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    const stop = () => loading.abort();
    this.outer.addEventListener('abort', stop, { once: true });
    const { signal } = loading;
    const pad = (to - from) / 2;
    const [since, until] = [from - pad, Math.max(from - pad + 1000, Math.min(to + pad, Date.now()))];
    try {
      const [timeline] = await Promise.all([
        get('timeline', { since: iso(since), until: iso(until), camera: names, buckets: BUCKETS }, signal),
        this.loadMarks(since, until, names, signal),
      ]);
      this.take(timeline);
      const number = this.count(from, to);
      this.captions = number <= EXACT ? await this.loadCaptions(from, to, names, signal) : null;
      this.error = null;
      this.isLoaded = true;
      this.changed();
    } catch (error) {
      if (signal.aborted) return;
      this.error = error;
      this.changed();
    } finally {
      this.outer.removeEventListener('abort', stop);
    }
  }

  take({ span, bucket_seconds: seconds, cameras }) {
    this.from = at(span.from);
    this.bucket = seconds * 1000;
    this.cameras.clear();
    this.max = 1;
    for (const { camera, captions, gaps } of cameras) {
      for (const number of captions) if (number > this.max) this.max = number;
      const spans = gaps.map((gap) => ({ ...gap, from: at(gap.from), to: at(gap.to) }));
      this.cameras.set(camera, { captions, gaps: spans });
    }
    this.changed();
  }

  async loadMarks(since, until, names, signal) {
    const [alerts, answers] = [new Map(), []];
    let before;
    for (let page = 0; page < MARK_PAGES; page += 1) {
      const { events, next_before: next } = await get('events', { kind: ['alert', 'answer'], camera: names, since: iso(since), until: iso(until), limit: PAGE, before }, signal);
      for (const event of events) {
        if (event.kind === 'answer') answers.push(event);
        else if (!alerts.has(event.alert_id)) alerts.set(event.alert_id, event);
      }
      if (!next) break;
      before = next;
    }
    [this.alerts, this.answers] = [alerts, answers];
  }

  async loadCaptions(from, to, names, signal) {
    const captions = new Map();
    let before;
    for (let read = 0; read < EXACT; ) {
      // A caption is published some time after its window.
      const { events, next_before: next } = await get('events', { kind: 'caption', camera: names, since: iso(from), until: iso(to + 60000), limit: PAGE, before }, signal);
      for (const event of events) keep(captions, event);
      read += events.length;
      if (!next) break;
      before = next;
    }
    for (const list of captions.values()) list.reverse();
    return captions;
  }

  /** Adds an event that was published now. */
  add(event) {
    if (event.kind === 'alert') this.alerts.set(event.alert_id, event);
    if (event.kind === 'answer') this.answers.unshift(event);
    const camera = this.cameras.get(event.camera);
    if (event.kind !== 'caption' || !camera) return;
    const number = Math.floor((at(event.window.to) - this.from) / this.bucket);
    if (number < 0) return;
    while (camera.captions.length <= number && number < 2 * BUCKETS) camera.captions.push(0);
    camera.captions[number] += 1;
    // The last gap ends where this window begins.
    const gap = camera.gaps.at(-1);
    if (gap && gap.to > at(event.window.from)) gap.to = Math.max(gap.from, at(event.window.from));
    if (this.captions) {
      const list = keep(this.captions, event);
      if (list.length > EXACT) list.splice(0, list.length - EXACT);
    }
  }

  /** Returns the number of captions within a span. */
  count(from, to) {
    const [first, last] = [from, to].map((time) => Math.floor((time - this.from) / this.bucket));
    let sum = 0;
    for (const { captions } of this.cameras.values()) {
      for (let at = Math.max(0, first); at <= Math.min(last, captions.length - 1); at += 1) sum += captions[at];
    }
    return sum;
  }

  /** Returns the gap of a camera at a time: a span without captions, or within a window. */
  gapAt(camera, time) {
    const within = (gap) => gap.from <= time && time < gap.to;
    const found = this.cameras.get(camera)?.gaps.find(within);
    if (found) return found;
    for (const event of this.captions?.get(camera) ?? []) {
      const gap = event.coverage.gaps.find((gap) => at(gap.from) <= time && time < at(gap.to));
      if (gap) return { ...gap, from: at(gap.from), to: at(gap.to), reason: '' };
    }
    return null;
  }

  alertAt(camera, time) {
    return [...this.alerts.values()].find((alert) => alert.camera === camera && at(alert.started_at) <= time && time <= (alert.ended_at ? at(alert.ended_at) : Date.now())) ?? null;
  }

  /** Returns the caption of a camera at a time, or the newest one before it. */
  async captionAt(camera, time, signal) {
    const known = this.captions?.get(camera)?.find((event) => at(event.window.to) >= time && at(event.window.from) <= time);
    if (known) return known;
    const until = iso(time + Math.max(5000, this.bucket));
    return (await get('events', { camera, kind: 'caption', until, limit: 1 }, signal)).events[0] ?? null;
  }
}

function keep(captions, event) {
  if (!captions.has(event.camera)) captions.set(event.camera, []);
  const list = captions.get(event.camera);
  list.push(event);
  return list;
}
