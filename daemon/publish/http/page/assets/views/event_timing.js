// The time between a window's close and its text, as a bar.

import { h, svg } from '../dom.js';
import { length } from '../time.js';

const STAGES = [
  ['wait', 'Waiting'],
  ['encode', 'Encoding frames'],
  ['prefill', 'Reading the prompt'],
  ['decode', 'Writing the text'],
  ['rest', 'Other'],
];

export function timingBar(timing) {
  const { wait_seconds: wait, encode_seconds: encode, prefill_seconds: prefill, decode_seconds: decode, total_seconds: total } = timing;
  const seconds = { wait: Math.max(0, wait - encode), encode: Math.min(wait, encode), prefill, decode };
  seconds.rest = Math.max(0, total - wait - prefill - decode);
  const shown = STAGES.filter(([stage]) => seconds[stage] > total / 1000);
  const sum = shown.reduce((sum, [stage]) => sum + seconds[stage], 0) || 1;
  let left = 0;
  const parts = shown.map(([stage]) => {
    const width = (seconds[stage] / sum) * 1000;
    left += width;
    return svg('rect', { class: `stage-${stage}`, x: left - width, y: 0, width: Math.max(1, width - 2), height: 10 });
  });
  const words = shown.map(([stage, name]) => `${name}: ${length(seconds[stage])}`).join(', ');
  return h('figure', { class: 'timing' },
    svg('svg', { viewBox: '0 0 1000 10', preserveAspectRatio: 'none', role: 'img', 'aria-label': words }, parts),
    h('ul', {}, shown.map(([stage, name]) => h('li', { class: `stage-${stage}` }, h('span', {}, name), h('span', {}, length(seconds[stage]))))));
}
