// The view Ask: a question to one or several cameras about a range of time, and the conversation
// that follows. The conversation stays while the page is open.

import { h, show } from '../dom.js';
import { cameras, connection, on } from '../feed.js';
import { cameraChoice, empty, head, loading, picture } from '../parts.js';
import { may } from '../session.js';
import { at, clock } from '../time.js';
import { Range } from './range.js';
import { Turn } from './ask_turn.js';
import { get } from '../api.js';

/** The turns so far, and the cameras that were chosen. */
const turns = h('div', { class: 'turns' });
const chosen = new Set();

const PRESETS = [['', 'Now (the newest window)'], ['1m', 'The last minute'], ['10m', 'The last 10 minutes'], ['1h', 'The last hour'], ['24h', 'The last 24 hours']];

const EXAMPLES = ['Is there a person?', 'What happened?', 'How many cars are there?'];

export const ask = {
  path: 'ask',
  title: 'Ask',
  icon: 'M4 5h16v11H10l-4 4v-4H4z',
  isFor: () => may('ask'),
  keys: [['Ctrl Enter', 'Ask the question']],
  open,
};

function open(root, parameters, signal) {
  const place = h('div', { class: 'ask' }, loading());
  show(root, head('Ask', h('p', { class: 'head-note' }, 'about any time that the buffer holds')), place);
  const form = new Form(signal);
  const arrange = () => {
    if (cameras.size === 0) {
      show(place, empty('No camera is configured', 'Add a [[camera]] to lookout.toml and restart lookout. Then ask about it here.'));
    } else if (!form.element.isConnected || form.isOutdated()) {
      form.arrange();
      show(place, form.element, h('section', { class: 'thread', 'aria-label': 'Conversation' }, turns));
    }
  };
  form.take(parameters);
  if (!turns.hasChildNodes()) show(turns, invitation(form));
  on('cameras', arrange, signal);
  if (connection.state === 'open' || cameras.size > 0) arrange();
  return (changed) => {
    form.take(changed);
    form.arrange();
  };
}

function invitation(form) {
  const example = (text) => {
    const button = h('button', { type: 'button', class: 'quiet' }, text);
    button.addEventListener('click', () => {
      form.question.value = text;
      form.question.focus();
    });
    return button;
  };
  return h('div', { class: 'empty' }, h('h2', {}, 'Ask what the cameras saw'),
    h('p', {}, 'The answer comes from the frames of the time that you choose, and shows them.'),
    h('div', { class: 'examples' }, EXAMPLES.map(example)));
}

/** The fields of a question. */
class Form {
  constructor(signal) {
    this.signal = signal;
    this.event = null;
    this.range = new Range(PRESETS, 'Time');
    this.question = h('textarea', { rows: '3', maxlength: '8192', required: true, placeholder: 'Is there a person?' });
    this.detail = h('select', {}, [['auto', 'As the range needs'], ['overview', 'One pass over the range'], ['parts', 'In parts']].map(([value, text]) => h('option', { value }, text)));
    this.score = h('input', { type: 'checkbox' });
    this.choice = h('div', {});
    this.about = h('div', { class: 'about', hidden: true });
    this.send = h('button', {}, 'Ask');
    this.element = h('form', { class: 'panel ask-form' },
      this.choice, this.about, this.range.element,
      h('label', { class: 'field' }, h('span', {}, 'Question'), this.question),
      h('details', {}, h('summary', {}, 'More'),
        h('label', { class: 'field' }, h('span', {}, 'Detail'), this.detail),
        h('label', { class: 'check' }, this.score, ' Score a yes/no question instead of writing a text')),
      h('div', { class: 'ask-send' }, this.send));
    this.element.addEventListener('submit', (event) => {
      event.preventDefault();
      this.ask();
    });
    this.question.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.element.requestSubmit();
    });
  }

  /** Takes the parameters of the address: cameras, a range or an event, a question. */
  take(parameters) {
    const named = parameters.getAll('camera');
    if (named.length) {
      chosen.clear();
      named.forEach((name) => chosen.add(name));
    }
    const time = (name) => (/^\d+$/.test(parameters.get(name) ?? '') ? Number(parameters.get(name)) : at(parameters.get(name) ?? ''));
    if (parameters.has('from')) this.range.setBetween(time('from'), parameters.has('to') ? time('to') : Date.now());
    if (parameters.has('last')) this.range.setLast(parameters.get('last'));
    if (parameters.has('q')) this.question.value = parameters.get('q');
    this.setEvent(parameters.get('event'));
    if (named.length) requestAnimationFrame(() => this.question.focus());
  }

  /** Asks about the window of an event instead of a range. */
  async setEvent(id) {
    this.event = id;
    this.range.element.hidden = Boolean(id);
    this.about.hidden = !id;
    if (!id) return;
    const event = await get(`events/${id}`, {}, this.signal).catch(() => null);
    const frame = event?.frames?.find((frame) => frame.slow) ?? event?.frames?.[0];
    const away = h('button', { type: 'button', class: 'plain' }, 'Choose another time');
    away.addEventListener('click', () => this.setEvent(null));
    const text = event?.window ? `The window ${clock(event.window.from)} – ${clock(event.window.to)} of ${event.camera}` : `The window of event ${id}`;
    show(this.about, frame ? picture(event.camera, frame, '') : null, h('p', {}, text), away);
  }

  isOutdated() {
    return this.names !== [...cameras.keys()].join('\n');
  }

  arrange() {
    this.names = [...cameras.keys()].join('\n');
    for (const name of [...chosen]) if (!cameras.has(name)) chosen.delete(name);
    if (chosen.size === 0) chosen.add([...cameras.keys()][0]);
    show(this.choice, cameraChoice([...cameras.keys()], chosen, () => (this.send.disabled = chosen.size === 0)));
    this.send.disabled = chosen.size === 0;
  }

  ask() {
    const text = this.question.value.trim();
    if (!text || chosen.size === 0) return;
    const body = { question: text, detail: this.detail.value };
    if (this.event) {
      const [run, event] = this.event.split('.').map(Number);
      Object.assign(body, { run, event });
    } else Object.assign(body, this.range.value);
    if (this.score.checked) Object.assign(body, { score_yes_no: true, detail: 'auto' });
    if (!turns.querySelector('.turn')) show(turns);
    const names = [...cameras.keys()].filter((name) => chosen.has(name));
    const turn = new Turn(text, this.score.checked);
    turns.append(turn.element);
    turn.element.scrollIntoView({ block: 'nearest' });
    turn.ask([{ ...body, cameras: names }]);
    this.question.value = '';
  }
}
