// A chooser for the time that a question or a search is about.

import { h } from '../dom.js';
import { at, local } from '../time.js';

/**
 * A chooser with these presets and two exact times.
 * @param {[string, string][]} presets The value of each (a length of time such as `10m`, or empty)
 *   and its name.
 * @param {string} name The name of the group of fields.
 */
export class Range {
  constructor(presets, name, changed = () => {}) {
    this.presets = presets;
    this.amount = h('input', { type: 'number', min: '1', max: '10000', value: '15', 'aria-label': 'Number' });
    this.unit = h('select', { 'aria-label': 'Unit' }, [['s', 'seconds'], ['m', 'minutes'], ['h', 'hours'], ['d', 'days']].map(([value, unit]) => h('option', { value, selected: value === 'm' }, unit)));
    this.from = h('input', { type: 'datetime-local', step: '1' });
    this.to = h('input', { type: 'datetime-local', step: '1' });
    this.choice = h('select', {}, [...presets, ['last', 'The last…'], ['between', 'From … to …']].map(([value, text]) => h('option', { value }, text)));
    this.last = h('div', { class: 'range-last', hidden: true }, this.amount, this.unit);
    this.between = h('div', { class: 'range-between', hidden: true },
      h('label', { class: 'field' }, h('span', {}, 'From'), this.from),
      h('label', { class: 'field' }, h('span', {}, 'To'), this.to));
    this.element = h('div', { class: 'range' }, h('label', { class: 'field' }, h('span', {}, name), this.choice), this.last, this.between);
    this.choice.addEventListener('change', () => this.arrange());
    this.element.addEventListener('change', changed);
  }

  arrange() {
    this.last.hidden = this.choice.value !== 'last';
    this.between.hidden = this.choice.value !== 'between';
    if (!this.between.hidden && !this.from.value) {
      this.from.value = local(Date.now() - 600000);
      this.to.value = local(Date.now());
    }
  }

  /** Chooses two exact times. */
  setBetween(from, to) {
    this.choice.value = 'between';
    this.from.value = local(from);
    this.to.value = local(to);
    this.arrange();
  }

  /** Chooses the last length of time, such as `10m`. */
  setLast(length) {
    const preset = this.presets.find(([value]) => value === length);
    const [, amount, unit] = length.match(/^(\d+)([smhd])$/) ?? [];
    if (preset) this.choice.value = length;
    else if (amount) {
      this.choice.value = 'last';
      this.amount.value = amount;
      this.unit.value = unit;
    }
    this.arrange();
  }

  /** Returns the chosen time: `{last}`, `{from, to}` in RFC 3339, or nothing. */
  get value() {
    if (this.choice.value === 'between') {
      const moment = (input) => (input.value ? new Date(at(input.value)).toISOString() : undefined);
      return { from: moment(this.from), to: moment(this.to) };
    }
    const last = this.choice.value === 'last' ? `${this.amount.value}${this.unit.value}` : this.choice.value;
    return last ? { last } : {};
  }
}
