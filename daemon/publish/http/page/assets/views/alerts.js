// The view Alerts: active and past alerts with their scores, and the rules that raise them.

import { acknowledgement, newestSlow, RULE_STATES, SEVERITIES } from '../alert_parts.js';
import { eventId, get } from '../api.js';
import { curve, framed, score } from '../curve.js';
import { h, link, setText, show } from '../dom.js';
import { connection, on } from '../feed.js';
import { head, loading, picture, pill, problem } from '../parts.js';
import { may } from '../session.js';
import { ago, at, length, moment } from '../time.js';
import { count } from '../words.js';

const PAGE = 30;

/** Time between two readings while events come, in milliseconds. */
const PAUSE = 1000;

export const alerts = {
  path: 'alerts',
  title: 'Alerts',
  icon: 'M6 9a6 6 0 0 1 12 0c0 6 2.5 7 2.5 7h-17S6 15 6 9M10 20a2.2 2.2 0 0 0 4 0',
  open,
};

function open(root, parameters, signal) {
  const note = h('p', { class: 'head-note', role: 'status' });
  const tryRule = may('ask') && link('trial', {}, { class: 'button quiet' }, 'Try a rule');
  const [active, rules] = [h('section', {}), h('section', {})];
  const past = new Past(parameters, signal);
  const place = h('div', { class: 'alerts' }, loading());
  show(root, head('Alerts', note, h('div', { class: 'head-actions' }, tryRule)), place);

  const refresh = async () => {
    try {
      const [listed, known] = await Promise.all([get('alerts', { state: 'active', limit: 200 }, signal), get('rules', {}, signal)]);
      setText(note, listed.alerts.length ? `${count(listed.alerts.length, 'alert')} active` : 'No alert is active');
      show(active, listed.alerts.length ? [h('h2', {}, 'Active'), cards(listed.alerts, refresh)] : null);
      show(rules, h('h2', {}, 'Rules'), ruleTable(known.rules));
      past.setRules(known.rules);
      if (!active.isConnected) show(place, active, rules, past.element);
      active.hidden = listed.alerts.length === 0;
      await past.read();
    } catch (error) {
      if (!signal.aborted) show(place, problem(error));
    }
  };

  let timer = 0;
  on('event', (event) => {
    if (event.kind !== 'alert' && event.kind !== 'rule_status') return;
    timer ||= setTimeout(() => {
      timer = 0;
      refresh();
    }, PAUSE);
  }, signal);
  on('refresh', refresh, signal);
  signal.addEventListener('abort', () => clearTimeout(timer));
  if (connection.state === 'open') refresh();
}

/** The alerts that ended, with their filters. */
class Past {
  constructor(parameters, signal) {
    this.signal = signal;
    this.pages = 1;
    this.rule = h('select', {});
    this.camera = h('select', {});
    this.chosen = { rule: parameters.get('rule') ?? '', camera: parameters.get('camera') ?? '' };
    this.list = h('div', { class: 'alert-cards' });
    this.more = h('div', { class: 'more', hidden: true }, h('button', { type: 'button', class: 'quiet', onclick: () => this.grow() }, 'Show more'));
    for (const select of [this.rule, this.camera]) {
      select.addEventListener('change', () => {
        this.chosen = { rule: this.rule.value, camera: this.camera.value };
        this.pages = 1;
        this.read().catch((error) => show(this.list, problem(error)));
      });
    }
    this.element = h('section', {}, h('h2', {}, 'Past'),
      h('div', { class: 'filters' },
        h('label', { class: 'field' }, h('span', {}, 'Rule'), this.rule),
        h('label', { class: 'field' }, h('span', {}, 'Camera'), this.camera)),
      this.list, this.more);
  }

  setRules(rules) {
    const options = (select, names, all, value) => {
      const texts = [...new Set(names)];
      if (select.options.length === texts.length + 1) return;
      show(select, h('option', { value: '' }, all), texts.map((name) => h('option', { value: name }, name)));
      select.value = value;
    };
    options(this.rule, rules.map((rule) => rule.name), 'All rules', this.chosen.rule);
    options(this.camera, rules.map((rule) => rule.camera), 'All cameras', this.chosen.camera);
  }

  grow() {
    this.pages += 1;
    this.read().catch((error) => show(this.list, problem(error)));
  }

  async read() {
    const query = { state: 'ended', limit: PAGE, ...this.chosen };
    const found = [];
    let before = '';
    for (let page = 0; page < this.pages; page += 1) {
      const reply = await get('alerts', { ...query, before }, this.signal);
      found.push(...reply.alerts);
      before = reply.next_before;
      if (!before) break;
    }
    this.more.hidden = !before;
    const none = h('p', { class: 'head-note' }, 'No alert has ended yet.');
    show(this.list, found.length ? found.map((alert) => card(alert, () => this.read())) : none);
  }
}

function cards(listed, changed) {
  return h('div', { class: 'alert-cards' }, listed.map((alert) => card(alert, changed)));
}

/** An alert with its frame, its scores, and what can be done about it. */
function card(alert, changed) {
  const id = eventId(alert);
  const severity = SEVERITIES[alert.severity];
  const isActive = alert.ended_at === null;
  const seconds = ((isActive ? Date.now() : at(alert.ended_at)) - at(alert.started_at)) / 1000;
  const duration = isActive ? `for ${length(seconds)}` : `lasted ${length(seconds)}`;
  const frame = newestSlow(alert.first_frames?.length ? alert.first_frames : alert.frames);
  const points = alert.curve;
  return h('article', { class: ['alert-card', isActive && 'is-active'], 'aria-label': `Alert ${alert.rule} on ${alert.camera}` },
    link('event', { id }, { class: 'alert-picture', tabindex: '-1', 'aria-hidden': 'true' }, frame ? picture(alert.camera, frame, '') : null),
    h('div', { class: 'alert-about' },
      h('h3', {}, link('event', { id }, {}, alert.rule), pill(severity.tone, severity.word)),
      h('p', {}, `${alert.camera} · ${moment(alert.started_at)}, ${duration}`),
      alert.description ? h('p', { class: 'alert-text' }, alert.description.text) : h('p', {}, alert.question),
      h('p', {}, `Greatest score ${score(alert.peak_score)}`, alert.unknown_windows ? `, ${count(alert.unknown_windows, 'window')} not seen` : '')),
    h('div', { class: 'alert-side' },
      points.length ? framed(curve(points), points[0].at, points.at(-1).at) : null,
      acknowledgement(alert, changed)));
}

function ruleTable(rules) {
  if (rules.length === 0) {
    return h('p', { class: 'head-note' }, 'No rule is configured. ',
      may('ask') && [link('trial', {}, {}, 'Try a question'), ' on the past, then add it as a [[rule]] to lookout.toml.']);
  }
  const columns = ['Rule', 'Camera', 'Question', 'State', 'Score', 'Today', ...(may('ask') ? [''] : [])];
  const row = (rule) => {
    const state = rule.blind ? { word: 'Sees nothing', tone: 'bad' } : RULE_STATES[rule.state];
    return h('tr', {},
      h('th', { scope: 'row' }, rule.name),
      h('td', {}, rule.camera),
      h('td', { class: 'wraps' }, rule.question),
      h('td', {}, pill(state.tone, state.word)),
      h('td', { class: 'number' }, rule.score === null ? '–' : score(rule.score), rule.scored_at ? h('small', {}, ` ${ago(rule.scored_at)}`) : null),
      h('td', {}, count(rule.alerts_today, 'alert'), rule.false_alarms_today ? h('small', {}, `, ${rule.false_alarms_today} false`) : null),
      may('ask') && h('td', {}, link('trial', { rule: rule.name, camera: rule.camera }, {}, 'Try')));
  };
  return h('div', { class: 'panel scroll', tabindex: '0', role: 'region', 'aria-label': 'Rules' },
    h('table', {}, h('thead', {}, h('tr', {}, columns.map((name) => h('th', { scope: 'col' }, name || h('span', { class: 'hidden-text' }, 'Action'))))),
      h('tbody', {}, rules.map(row))));
}
