// The view that tries a rule on the past, before it is armed: the scores of the windows, the alerts
// that it would have raised, and the text for lookout.toml.

import { copyButton, newestSlow } from '../alert_parts.js';
import { get, stream } from '../api.js';
import { curve, framed, score } from '../curve.js';
import { h, link, setText, show } from '../dom.js';
import { cameras, connection, on } from '../feed.js';
import { head, picture, problem } from '../parts.js';
import { may } from '../session.js';
import { at, clock, length, span } from '../time.js';
import { CAUSES, count } from '../words.js';
import { toml } from './trial_toml.js';

const LENGTHS = [['10m', 'Last 10 minutes'], ['1h', 'Last hour'], ['6h', 'Last 6 hours'], ['24h', 'Last 24 hours'], ['7d', 'Last 7 days']];

/** Shortest time between two drawings of a running trial, in milliseconds. */
const DRAW_EVERY = 250;

export const trial = { path: 'trial', title: 'Try a rule', icon: null, isFor: () => may('ask'), open };

function open(root, parameters, signal) {
  const form = new Form(parameters);
  const result = h('div', { class: 'trial-result', 'aria-live': 'off' }, hint());
  show(root, head('Try a rule', link('alerts', {}, {}, 'Alerts')), h('div', { class: 'trial' }, form.element, result));
  let running = null;
  signal.addEventListener('abort', () => running?.abort());

  form.element.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running) {
      running.abort();
      return;
    }
    running = new AbortController();
    form.isRunning(true);
    const tried = new Tried(result);
    try {
      for await (const { data } of stream('rules/try', { body: form.request(), signal: running.signal })) tried.take(data);
      tried.draw();
    } catch (error) {
      if (running.signal.aborted) tried.stopped();
      else show(result, problem(error));
    }
    running = null;
    form.isRunning(false);
  });
  const read = async () => {
    try {
      form.setRules((await get('rules', {}, signal)).rules);
    } catch (error) {
      if (!signal.aborted) show(result, problem(error));
    }
  };
  on('cameras', () => form.setCameras(), signal);
  on('refresh', read, signal);
  if (connection.state === 'open') read();
}

function hint() {
  return h('div', { class: 'empty' }, h('h2', {}, 'See what a rule would have done'),
    h('p', {}, 'Choose a rule or write a question that has yes or no as its answer. The model scores it on every window of the past that the buffer holds. Nothing is published, and captions, questions and rules go first.'));
}

class Form {
  constructor(parameters) {
    const field = (name, input) => h('label', { class: 'field' }, h('span', {}, name), input);
    const number = (name, text) => h('input', { type: 'number', step: '0.01', min: '0', max: '1', placeholder: text, 'aria-label': name });
    this.wanted = { rule: parameters.get('rule') ?? '', camera: parameters.get('camera') ?? '' };
    this.camera = h('select', { required: true });
    this.rule = h('select', {});
    this.question = h('textarea', { rows: 3, maxlength: 8192, value: parameters.get('question') ?? '', placeholder: 'Is there a car in the drive?' });
    const last = parameters.get('last') ?? '1h';
    const known = LENGTHS.some(([value]) => value === last) ? LENGTHS : [[last, `Last ${last}`], ...LENGTHS];
    this.last = h('select', {}, known.map(([value, text]) => h('option', { value, selected: value === last }, text)));
    this.on = number('Begins at', '0.8');
    this.off = number('Ends below', '0.4');
    this.of = h('input', { placeholder: '2/3', pattern: '[0-9]+/[0-9]+' });
    this.cooldown = h('input', { placeholder: '60s' });
    this.button = h('button', { disabled: true }, 'Try');
    this.element = h('form', { class: 'panel trial-form', 'aria-label': 'The rule to try' },
      field('Camera', this.camera), field('Rule', this.rule), field('Question', this.question), field('Time', this.last),
      h('details', {}, h('summary', {}, 'Thresholds'),
        h('div', { class: 'pair' }, field('Begins at a score of', this.on), field('Ends below', this.off),
          field('Windows that must agree', this.of), field('Pause after an alert', this.cooldown))),
      h('div', { class: 'actions' }, this.button));
    this.rule.addEventListener('change', () => this.ruleChanged());
    this.setCameras();
    this.setRules([]);
  }

  setCameras() {
    const names = [...cameras.keys()];
    if (names.join('\n') === this.names) return;
    this.names = names.join('\n');
    const chosen = this.camera.value || this.wanted.camera;
    show(this.camera, names.map((name) => h('option', { value: name, selected: name === chosen }, name)));
  }

  setRules(rules) {
    const chosen = this.rule.value || this.wanted.rule;
    this.questions = new Map(rules.map((rule) => [rule.name, rule.question]));
    show(this.rule, h('option', { value: '' }, 'A new rule'), [...this.questions.keys()].map((name) => h('option', { value: name, selected: name === chosen }, name)));
    this.button.disabled = this.camera.options.length === 0;
    this.ruleChanged();
  }

  ruleChanged() {
    const known = this.questions.get(this.rule.value);
    this.question.placeholder = known ?? 'Is there a car in the drive?';
    this.question.required = !known;
  }

  isRunning(running) {
    setText(this.button, running ? 'Stop' : 'Try');
    this.button.classList.toggle('quiet', running);
  }

  request() {
    const value = (input) => input.value.trim() || undefined;
    const number = (input) => (input.value === '' ? undefined : Number(input.value));
    return {
      camera: this.camera.value, rule: value(this.rule), question: value(this.question), last: this.last.value,
      on: number(this.on), off: number(this.off), of: value(this.of), cooldown: value(this.cooldown),
    };
  }
}

/** A trial in progress, and afterwards. */
class Tried {
  constructor(place) {
    this.place = place;
    this.points = [];
    this.unseen = [];
    this.alerts = [];
    this.drawnAt = 0;
    this.status = h('p', { role: 'status' }, 'The trial begins…');
    this.progress = h('progress', { 'aria-label': 'Windows that are scored' });
    this.chart = h('div', {});
    this.raised = h('div', {});
    this.text = h('div', {});
    show(place, h('section', { class: 'panel' }, this.status, this.progress), this.chart, this.raised, this.text);
  }

  take(message) {
    if (message.kind === 'failed') throw new Error(message.message);
    if (message.kind === 'trial') {
      this.trial = message;
      show(this.text, toml(message, copyButton));
    }
    if (message.kind === 'tried_window') this.points.push({ at: message.window.to, score: message.score ?? null, cause: message.unknown });
    if (message.kind === 'tried_alert') this.takeAlert(message);
    if (message.kind === 'trial_summary') this.summary = message;
    if (Date.now() - this.drawnAt > DRAW_EVERY) this.draw();
  }

  takeAlert(alert) {
    if (alert.phase === 'new') this.alerts.push(alert);
    else if (alert.phase === 'end' && this.alerts.length) {
      Object.assign(this.alerts.at(-1), { ended_at: alert.ended_at, peak_score: alert.peak_score });
    }
  }

  stopped() {
    this.draw();
    setText(this.status, `Stopped after ${count(this.points.length, 'window')}.`);
  }

  draw() {
    const { trial, points, alerts, summary } = this;
    if (!trial) return;
    this.drawnAt = Date.now();
    this.progress.max = Math.max(1, trial.windows);
    this.progress.value = points.length;
    this.progress.hidden = Boolean(summary);
    setText(this.status, summary ? this.inWords() : `${points.length.toLocaleString()} of ${count(trial.windows, 'window')} scored, ${count(alerts.length, 'alert')} so far.`);
    const [from, to] = [at(trial.span.from), at(trial.span.to)];
    const bands = alerts.map((alert) => [at(alert.started_at), alert.ended_at ? at(alert.ended_at) : points.length ? at(points.at(-1).at) : to]);
    const drawing = curve(points, { span: [from, to], lines: [trial.on, trial.off], bands });
    show(this.chart, h('section', { class: 'panel' }, h('h2', {}, trial.question), framed(drawing, from, to, this.cursor(from, to))));
    show(this.raised, h('section', { class: 'panel' }, h('h2', {}, alerts.length ? `${count(alerts.length, 'alert')} would have been raised` : 'No alert would have been raised'),
      alerts.length ? h('div', { class: 'tried-alerts' }, alerts.map((alert) => this.alertLink(alert))) : null));
  }

  /** Shows the score under the pointer. */
  cursor(from, to) {
    const shown = h('span', { class: 'chart-cursor' });
    this.chart.onpointermove = (event) => {
      const plot = this.chart.querySelector('.chart-plot')?.getBoundingClientRect();
      if (!plot || this.points.length === 0) return;
      const time = from + ((event.clientX - plot.left) / plot.width) * (to - from);
      const distance = (point) => Math.abs(at(point.at) - time);
      const near = this.points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
      const words = near.score === null ? (CAUSES[near.cause] ?? 'not scored').toLowerCase() : score(near.score);
      setText(shown, `${clock(near.at)}: ${words}`);
    };
    return shown;
  }

  alertLink(alert) {
    const frame = newestSlow(alert.frames);
    const { camera } = this.trial;
    const end = alert.ended_at ?? alert.window.to;
    const seconds = (at(end) - at(alert.started_at)) / 1000;
    return link('timeline', { camera, from: at(alert.started_at) - 120000, to: at(end) + 120000 }, {},
      h('span', { class: 'alert-picture' }, frame ? picture(camera, frame, '') : null),
      h('strong', {}, clock(alert.started_at)),
      h('small', {}, `${alert.ended_at ? `for ${length(seconds)}` : 'not ended'}, greatest score ${score(alert.peak_score)}`));
  }

  inWords() {
    const { summary, trial } = this;
    const unknown = Object.entries(summary.unknown).map(([cause, number]) => `${number.toLocaleString()} not seen (${(CAUSES[cause] ?? cause).toLowerCase()})`);
    const off = summary.off_schedule ? [`${summary.off_schedule.toLocaleString()} outside the schedule`] : [];
    return `${[`${summary.scored.toLocaleString()} of ${count(summary.windows, 'window')} scored`, ...unknown, ...off].join(', ')}: ${span(trial.span.from, trial.span.to)}.`;
  }
}
