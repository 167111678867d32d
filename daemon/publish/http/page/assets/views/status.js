// The view Status: what works, what does not and how to fix it, and the daemon's numbers.

import { get, text } from '../api.js';
import { h, link, setText, show } from '../dom.js';
import { cameras, connection, on, readCameras } from '../feed.js';
import { Metrics } from '../metrics.js';
import { empty, head, loading, pill, problem, statePill } from '../parts.js';
import { session } from '../session.js';
import { ago, clock, length } from '../time.js';
import { bytes, count } from '../words.js';
import { findings } from './status_findings.js';

const READ_EVERY = 5000;

export const status = {
  path: 'status',
  title: 'Status',
  icon: 'M3 12h4l3-8 4 16 3-8h4',
  open,
};

function open(root, _parameters, signal) {
  const note = h('p', { class: 'head-note', role: 'status' });
  const place = h('div', { class: 'status' }, loading());
  show(root, head('Status', note), place);
  let before = null;

  const refresh = async () => {
    try {
      const [daemon, page] = await Promise.all([get('status', {}, signal), isLimited() ? '' : text('metrics', signal), readCameras(signal)]);
      const model = await devices(signal);
      const metrics = new Metrics(page);
      show(place, sections(daemon, metrics, before, model));
      setText(note, `lookout ${daemon.version}, running since ${started(daemon.run)}`);
      before = before && metrics.time - before.time < 60000 ? before : metrics;
    } catch (error) {
      if (!signal.aborted) show(place, problem(error));
    }
  };
  on('refresh', refresh, signal);
  const timer = setInterval(() => connection.state === 'open' && !document.hidden && refresh(), READ_EVERY);
  signal.addEventListener('abort', () => clearInterval(timer));
  if (connection.state === 'open') refresh();
}

/** Returns true if the metrics, which name all cameras, are not for this token. */
function isLimited() {
  return session.cameras !== null;
}

/** A run's number is the time of its start in milliseconds. */
function started(run) {
  return `${clock(run)} (${ago(run)})`;
}

/** Returns the devices of the newest caption or answer, which say why they were chosen. */
async function devices(signal) {
  const { events } = await get('events', { kind: ['caption', 'answer'], limit: 1 }, signal);
  return events[0] ?? null;
}

function sections(daemon, metrics, before, model) {
  const attention = [
    section('What needs attention', problems(daemon, metrics)),
    section('Cameras', cameraTable(metrics)),
  ];
  if (isLimited()) return [attention, h('p', { class: 'head-note' }, 'The numbers of the daemon are for tokens that see all cameras.')];
  return [
    attention,
    h('div', { class: 'columns' },
      section('Model', facts(modelFacts(metrics, model))),
      section('Work', facts(work(metrics, before))),
      section('Buffer', facts(buffer(metrics))),
      section('Journal and search', facts(journal(metrics))),
      section('Interfaces', facts(interfaces(metrics))),
    ),
  ];
}

function section(title, ...content) {
  return h('section', { class: 'panel' }, h('h2', {}, title), content);
}

function facts(rows) {
  return h('dl', { class: 'facts' }, rows.filter(Boolean).map(([name, value, why]) =>
    h('div', {}, h('dt', {}, name), h('dd', {}, value, why ? h('small', {}, why) : null))));
}

function problems(daemon, metrics) {
  const found = findings(daemon, [...cameras.values()], metrics);
  if (found.length === 0) return h('p', { class: 'all-well' }, pill('good', isLimited() ? 'These cameras work' : 'Everything works'));
  return h('ul', { class: 'findings' }, found.map(({ tone, what, fix }) =>
    h('li', {}, pill(tone, what), fix ? h('p', {}, fix) : null)));
}

function cameraTable(metrics) {
  if (cameras.size === 0) return empty('No camera is configured', 'Add a [[camera]] to lookout.toml and restart lookout.');
  const counted = isLimited() ? [] : ['Captions', 'Unchanged', 'Skipped', 'Dropped frames'];
  const columns = ['Camera', 'State', 'Newest frame', 'Reaches back', 'Buffer', ...counted, 'Reconnects'];
  const row = (camera) => {
    const of = (name) => metrics.sum(name, { camera: camera.name });
    const share = of('lookout_captions_total') ? of('lookout_captions_unchanged_total') / of('lookout_captions_total') : 0;
    const number = (value) => h('td', { class: 'number' }, value.toLocaleString());
    return h('tr', {},
      h('th', { scope: 'row' }, link('timeline', { camera: camera.name }, {}, camera.name)),
      h('td', {}, statePill(camera.state)),
      h('td', {}, camera.last_frame_at ? ago(camera.last_frame_at) : 'none yet'),
      h('td', {}, camera.oldest_frame_at ? ago(camera.oldest_frame_at) : '–'),
      h('td', {}, `${bytes(camera.buffer_bytes)}${camera.disk_bytes ? `, ${bytes(camera.disk_bytes)} on disk` : ''}`),
      isLimited() ? null : [
        number(of('lookout_captions_total')),
        h('td', { class: 'number' }, `${Math.round(share * 100)} %`),
        number(of('lookout_captions_skipped_total')),
        number(of('lookout_frames_dropped_total')),
      ],
      number(camera.reconnects),
    );
  };
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Cameras' },
    h('table', {}, h('thead', {}, h('tr', {}, columns.map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, [...cameras.values()].map(row))));
}

function modelFacts(metrics, event) {
  const info = metrics.labels('lookout_model_info')[0];
  const placement = (part) => [part, event?.devices[part.toLowerCase()].device ?? info?.device ?? 'unknown', event?.devices[part.toLowerCase()].reason];
  return [['Model', event?.model ?? info?.model ?? 'unknown'], placement('Vision'), placement('Language'),
    metrics.mean('lookout_stage_seconds', { stage: 'encode_frame' }, 'Encoding a frame'),
    metrics.mean('lookout_stage_seconds', { stage: 'prefill' }, 'Reading the prompt'),
    metrics.mean('lookout_stage_seconds', { stage: 'decode_tokens' }, 'Writing the text'),
  ].filter(Boolean).map(([name, value, why]) => [name, typeof value === 'number' ? length(value) : value, why]);
}

function work(metrics, before) {
  const rate = (name) => (before && metrics.time > before.time ? (metrics.sum(name) - before.sum(name)) / ((metrics.time - before.time) / 60000) : null);
  const perMinute = (value) => (value === null ? '…' : `${value < 10 ? value.toFixed(1) : Math.round(value)} per minute`);
  return [
    ['Waiting for the model', count(metrics.sum('lookout_waiting_jobs'), 'text')],
    ['Being written', count(metrics.sum('lookout_active_sequences'), 'text')],
    ['Frames', perMinute(rate('lookout_frames_total'))],
    ['Captions', perMinute(rate('lookout_captions_total'))],
    ['Skipped captions', count(metrics.sum('lookout_captions_skipped_total'), 'window'), skipped(metrics)],
    ['Answers', metrics.sum('lookout_answers_total').toLocaleString()],
    ['Refused questions', metrics.sum('lookout_questions_refused_total').toLocaleString()],
  ];
}

function skipped(metrics) {
  const reasons = metrics.groups('lookout_captions_skipped_total', 'reason').filter(([, value]) => value > 0);
  return reasons.map(([reason, value]) => `${reason.replaceAll('_', ' ')}: ${value.toLocaleString()}`).join(', ');
}

function buffer(metrics) {
  const tier = (name, key) => [name, count(metrics.sum('lookout_buffer_frames', { tier: key }), 'frame'), bytes(metrics.sum('lookout_buffer_bytes', { tier: key }))];
  return [tier('Tokens (hot)', 'hot'), tier('JPEG (warm)', 'warm'), tier('Disk', 'disk'),
    ['Prefix cache', bytes(metrics.sum('lookout_prefix_cache_bytes')), count(metrics.sum('lookout_prefix_cache_entries'), 'window')],
    ['Re-encoded tokens', bytes(metrics.sum('lookout_reencode_cache_bytes'))],
    ['Encoded streams', bytes(metrics.sum('lookout_encoded_bytes'))],
  ];
}

function journal(metrics) {
  if (!metrics.has('lookout_journal_bytes')) {
    return [['Journal', 'in memory', 'It holds the newest 10,000 events, and a restart clears it. Set journal.folder to store events and to search them.']];
  }
  return [['Size', bytes(metrics.sum('lookout_journal_bytes'))],
    ['Stored events', metrics.sum('lookout_journal_events_stored_total').toLocaleString(), 'in this run'],
    ['Frames of events', metrics.sum('lookout_journal_jpegs').toLocaleString(), bytes(metrics.sum('lookout_journal_jpeg_bytes'))],
    metrics.has('lookout_search_vectors')
      ? ['Searchable by meaning', count(metrics.sum('lookout_search_vectors'), 'text')]
      : ['Search by meaning', 'off', 'Set search.model to search by meaning.'],
  ];
}

function interfaces(metrics) {
  const connections = metrics.groups('lookout_connections', 'interface').map(([name, value]) => [name, count(value, 'connection')]);
  const mqtt = metrics.has('lookout_mqtt_connected') ? [['MQTT broker', metrics.sum('lookout_mqtt_connected') ? 'connected' : 'not connected']] : [];
  return [...connections, ...mqtt];
}
