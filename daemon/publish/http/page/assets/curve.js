// Draws scores over time.

import { h, svg } from './dom.js';
import { at, clock } from './time.js';

const WIDTH = 1000;
const HEIGHT = 100;

/**
 * Draws a curve. It fills its place, so that it has no text.
 * @param {{at: string, score: number | null}[]} points The oldest first. Without a score the line
 *   is broken.
 * @param {object} options
 * @param {[number, number]} [options.span] Milliseconds of the left and the right end.
 * @param {number[]} [options.lines] Scores with a line across.
 * @param {[number, number][]} [options.bands] Spans with a ground, such as alerts.
 */
export function curve(points, { span, lines = [], bands = [] } = {}) {
  const times = points.map((point) => at(point.at));
  const [from, to] = span ?? [times[0], times.at(-1)];
  const x = (time) => (to > from ? ((time - from) / (to - from)) * WIDTH : WIDTH / 2);
  const y = (score) => (1 - score) * HEIGHT;
  const runs = [[]];
  points.forEach(({ score }, number) => {
    if (score === null) runs.push([]);
    else runs.at(-1).push([x(times[number]), y(score)]);
  });
  const drawn = runs.filter((run) => run.length > 0);
  const line = (run) => run.map(([left, top]) => `${left.toFixed(1)} ${top.toFixed(1)}`).join('L');
  // A single score is a short line.
  const path = (run) => `M${line(run.length > 1 ? run : [run[0], [run[0][0] + 4, run[0][1]]])}`;
  const area = (run) => `${path(run)}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}L${run[0][0].toFixed(1)} ${HEIGHT}Z`;
  return svg(
    'svg',
    { class: 'curve', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': inWords(points) },
    bands.map(([begin, end]) => svg('rect', { class: 'curve-band', x: x(begin), y: 0, width: Math.max(3, x(end) - x(begin)), height: HEIGHT })),
    lines.map((score) => svg('path', { class: 'curve-limit', d: `M0 ${y(score)}H${WIDTH}` })),
    drawn.map((run) => svg('path', { class: 'curve-area', d: area(run) })),
    drawn.map((run) => svg('path', { class: 'curve-line', d: path(run) })),
  );
}

function inWords(points) {
  const scored = points.filter((point) => point.score !== null);
  if (scored.length === 0) return 'No score';
  const peak = scored.reduce((best, point) => (point.score > best.score ? point : best));
  return `Scores from ${clock(points[0].at)} to ${clock(points.at(-1).at)}, the greatest ${score(peak.score)} at ${clock(peak.at)}`;
}

/** Returns a score with two digits. */
export function score(value) {
  return value.toFixed(2);
}

/** Puts the scores 1 and 0 beside a curve, and its times below. */
export function framed(drawing, from, to, ...more) {
  return h('figure', { class: 'chart' },
    h('div', { class: 'chart-plot' }, h('span', { class: 'chart-top' }, '1'), h('span', { class: 'chart-bottom' }, '0'), drawing, more),
    h('figcaption', {}, h('span', {}, clock(from)), h('span', {}, clock(to))));
}
