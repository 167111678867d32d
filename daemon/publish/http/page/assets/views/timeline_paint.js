// Draws the timeline on a canvas: the axis, then a lane per camera. Only lanes and times that are on
// the screen are drawn.

import { at, day, minutes, clock } from '../time.js';
import { CAUSES } from '../words.js';

export const AXIS = 30;

/** Distances between two marks of the axis, in milliseconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800].map((seconds) => seconds * 1000);

const COLOURS = ['surface', 'sunk', 'line', 'line-strong', 'text', 'quiet', 'accent', 'accent-soft', 'good-dot', 'warn-dot', 'warn', 'bad-dot', 'warn-soft'];

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.readColours();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.font = `11px ${style.getPropertyValue('--sans')}`;
    this.hatch = this.hatching('warn-soft', 'warn-dot');
    this.quietHatch = this.hatching('sunk', 'line-strong');
  }

  /** Diagonal lines, which fill gaps. */
  hatching(ground, lines) {
    const tile = document.createElement('canvas');
    [tile.width, tile.height] = [8, 8];
    const context = tile.getContext('2d');
    context.fillStyle = this.colours[ground];
    context.fillRect(0, 0, 8, 8);
    context.strokeStyle = this.colours[lines];
    context.globalAlpha = 0.55;
    context.lineWidth = 1.2;
    context.beginPath();
    for (const x of [-8, 0, 8]) {
      context.moveTo(x, 8);
      context.lineTo(x + 8, 0);
    }
    context.stroke();
    return this.context.createPattern(tile, 'repeat');
  }

  /** Fits the canvas to its box, in the pixels of the screen. */
  fit(width, height) {
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
    [this.width, this.height] = [width, height];
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
  }

  /** @param {object} view The span in view, the lanes, the cursor and the selection. */
  draw(view, data) {
    const { context } = this;
    this.view = view;
    this.x = (time) => ((time - view.from) / (view.to - view.from)) * this.width;
    context.clearRect(0, 0, this.width, this.height);
    const box = this.canvas.getBoundingClientRect();
    const [top, bottom] = [-box.top, window.innerHeight - box.top];
    this.drawAxis();
    view.lanes.forEach((name, lane) => {
      const y = AXIS + lane * view.laneHeight;
      if (y + view.laneHeight >= top && y <= bottom) this.drawLane(name, y, data);
    });
    this.drawFuture();
    this.drawSelection();
    this.drawCursor();
  }

  drawAxis() {
    const { context, view, colours } = this;
    const span = view.to - view.from;
    const step = STEPS.find((step) => (step / span) * this.width >= 76) ?? STEPS.at(-1);
    const zone = new Date(view.from).getTimezoneOffset() * 60000;
    context.font = this.font;
    context.textBaseline = 'middle';
    let lastDay = '';
    for (let time = Math.ceil((view.from - zone) / step) * step + zone; time < view.to; time += step) {
      const x = Math.round(this.x(time)) + 0.5;
      context.strokeStyle = colours.line;
      context.beginPath();
      context.moveTo(x, AXIS - 8);
      context.lineTo(x, this.height);
      context.stroke();
      const today = day(time);
      const text = step >= 86400000 ? today : step < 60000 ? clock(time) : minutes(time);
      context.fillStyle = colours.quiet;
      context.fillText(text, x + 4, AXIS - 9);
      if (today !== lastDay && step < 86400000) {
        context.fillStyle = colours.text;
        context.fillText(today, x + 4, AXIS - 22);
      }
      lastDay = today;
    }
  }

  drawFuture() {
    const now = this.x(Date.now());
    if (now >= this.width) return;
    this.context.fillStyle = this.colours.sunk;
    this.context.fillRect(now, AXIS, this.width - now, this.height - AXIS);
  }

  drawLane(name, y, data) {
    const { view, colours, context } = this;
    const [top, height] = [y + 10, view.laneHeight - 16];
    context.fillStyle = colours.line;
    context.fillRect(0, y + view.laneHeight - 1, this.width, 1);
    const lane = data.cameras.get(name);
    if (!lane) return;
    if (data.captions) this.drawCaptions(data.captions.get(name) ?? [], top, height);
    else this.drawBuckets(lane.captions, data, top, height);
    for (const gap of lane.gaps) this.drawGap(gap, top, height);
    for (const alert of data.alerts.values()) if (alert.camera === name) this.drawAlert(alert, y);
    context.fillStyle = colours.text;
    for (const answer of data.answers) {
      if (answer.camera === name) this.drawAnswer(this.x(at(answer.window.to)), top + height);
    }
  }

  /** Draws counted captions: the more, the stronger. Buckets narrower than a pixel share one. */
  drawBuckets(captions, data, top, height) {
    const { context, view } = this;
    const width = Math.max(1, (data.bucket / (view.to - view.from)) * this.width);
    const first = Math.max(0, Math.floor((view.from - data.from) / data.bucket));
    const last = Math.min(captions.length - 1, Math.ceil((view.to - data.from) / data.bucket));
    context.fillStyle = this.colours.accent;
    for (let number = first; number <= last; number += 1) {
      if (!captions[number]) continue;
      context.globalAlpha = 0.22 + 0.6 * Math.min(1, captions[number] / data.max);
      context.fillRect(this.x(data.from + number * data.bucket), top, width + 0.3, height);
    }
    context.globalAlpha = 1;
  }

  /** Draws each caption: a band for its window and a tick at its end. */
  drawCaptions(events, top, height) {
    const { context, view, colours } = this;
    const seen = events.filter((event) => at(event.window.to) >= view.from && at(event.window.from) <= view.to);
    context.fillStyle = colours['accent-soft'];
    for (const event of seen) {
      const x = this.x(at(event.window.from));
      context.fillRect(x, top, this.x(at(event.window.to)) - x, height);
    }
    for (const event of seen) {
      context.fillStyle = event.unchanged ? colours['line-strong'] : colours.accent;
      context.fillRect(this.x(at(event.window.to)) - 2, top, 2, height);
    }
    for (const event of seen) for (const gap of event.coverage.gaps) this.drawGap({ ...gap, from: at(gap.from), to: at(gap.to) }, top + height * 0.6, height * 0.4);
  }

  drawGap(gap, top, height) {
    const { context } = this;
    const [from, to] = [Math.max(0, this.x(gap.from)), Math.min(this.width, this.x(gap.to))];
    if (to <= 0 || from >= this.width) return;
    // Nobody can repair a time when the daemon did not run.
    const isQuiet = gap.cause === 'before_start' || gap.cause === 'evicted';
    context.fillStyle = isQuiet ? this.quietHatch : this.hatch;
    context.fillRect(from, top, Math.max(2, to - from), height);
    const text = CAUSES[gap.cause] ?? gap.cause;
    context.font = this.font;
    const wide = context.measureText(text).width;
    if (height < 14 || to - from < wide + 20) return;
    context.fillStyle = this.colours[isQuiet ? 'sunk' : 'warn-soft'];
    context.fillRect(from + 5, top + height / 2 - 8, wide + 10, 16);
    context.fillStyle = this.colours[isQuiet ? 'quiet' : 'warn'];
    context.textBaseline = 'middle';
    context.fillText(text, from + 10, top + height / 2 + 0.5);
  }

  drawAlert(alert, y) {
    const from = this.x(at(alert.started_at));
    const to = this.x(alert.ended_at ? at(alert.ended_at) : Date.now());
    if (to < 0 || from > this.width) return;
    this.context.fillStyle = this.colours[alert.severity === 'info' ? 'good-dot' : alert.severity === 'warning' ? 'warn-dot' : 'bad-dot'];
    this.context.beginPath();
    this.context.roundRect(from, y + 3, Math.max(4, to - from), 5, 2.5);
    this.context.fill();
  }

  drawAnswer(x, y) {
    if (x < 0 || x > this.width) return;
    this.context.beginPath();
    this.context.arc(x, y + 2, 2.5, 0, 7);
    this.context.fill();
  }

  drawSelection() {
    const { context, view, colours } = this;
    if (!view.selection) return;
    const [from, to] = [this.x(view.selection.from), this.x(view.selection.to)];
    context.fillStyle = colours.accent;
    context.globalAlpha = 0.14;
    context.fillRect(from, 0, to - from, this.height);
    context.globalAlpha = 1;
    context.fillRect(from - 1, 0, 2, this.height);
    context.fillRect(to - 1, 0, 2, this.height);
  }

  drawCursor() {
    const { context, view, colours } = this;
    if (!view.cursor) return;
    const x = Math.round(this.x(view.cursor.time)) + 0.5;
    context.strokeStyle = colours.text;
    context.beginPath();
    context.moveTo(x, AXIS - 4);
    context.lineTo(x, this.height);
    context.stroke();
    const y = AXIS + view.cursor.lane * view.laneHeight;
    context.strokeStyle = colours.accent;
    context.lineWidth = 1.5;
    context.strokeRect(x - 5, y + 7, 10, view.laneHeight - 10);
    context.lineWidth = 1;
  }
}
