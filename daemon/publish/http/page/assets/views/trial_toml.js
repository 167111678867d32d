// The text of a tried rule for lookout.toml.

import { h } from '../dom.js';

export function toml(trial, copyButton) {
  const isNew = trial.rule === 'trial';
  const rows = [
    ['name', text(isNew ? nameOf(trial.question) : trial.rule)],
    ['cameras', `[${text(trial.camera)}]`],
    ['question', text(trial.question)],
    ['on', number(trial.on)],
    ['off', number(trial.off)],
    ['of', text(trial.of)],
    ['cooldown', text(`${trial.cooldown_seconds}s`)],
    ['hold', text(`${trial.hold_seconds}s`)],
    ['temperature', number(trial.temperature)],
  ];
  const lines = ['[[rule]]', ...rows.map(([name, value]) => `${name} = ${value}`)].join('\n');
  const block = h('pre', { tabindex: '0' }, h('code', {}, lines));
  return h('section', { class: 'panel' }, h('h2', {}, isNew ? 'Arm it: add this to lookout.toml' : 'The rule with these settings'),
    h('div', { class: 'toml' }, block, copyButton('Copy', () => `${lines}\n`, block)),
    h('p', { class: 'head-note' }, 'Rules are read at the start of lookout. Without cameras a rule is for all of them.'));
}

/** Returns a text as TOML writes it. JSON escapes what TOML must, but not the delete character. */
function text(value) {
  return JSON.stringify(value).replaceAll('\u007f', '\\u007f');
}

/** Returns a number as TOML writes a float. */
function number(value) {
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}

/** Returns a name of the letters, digits and dashes that a rule's name may have. */
function nameOf(question) {
  const words = question.toLowerCase().replace(/[^a-z0-9]+/g, ' ').trim().split(' ');
  const plain = words.filter((word) => !['is', 'are', 'there', 'a', 'an', 'the', 'any', 'in', 'on', 'at'].includes(word));
  return (plain.slice(0, 3).join('-') || 'new-rule').slice(0, 40);
}
