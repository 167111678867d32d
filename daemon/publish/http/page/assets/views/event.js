// The view of an event: what the model saw and wrote, how much of the time it saw, and how long it
// took. It has an address of its own, which can be shared.

import { acknowledgement, copyButton, SEVERITIES } from '../alert_parts.js';
import { eventId, get, post, url } from '../api.js';
import { curve, framed, score } from '../curve.js';
import { h, link, show } from '../dom.js';
import { connection, on } from '../feed.js';
import { empty, head, loading, pill, problem } from '../parts.js';
import { may } from '../session.js';
import { at, clock, length, moment, span } from '../time.js';
import { bytes, CAUSES, count, STATES } from '../words.js';
import { filmStrip } from './event_frames.js';
import { timingBar } from './event_timing.js';

const KINDS = { caption: 'Caption', answer: 'Answer', alert: 'Alert', camera_status: 'Camera', rule_status: 'Rule' };

export const event = {
  path: 'event',
  title: 'Event',
  icon: null,
  open,
  keys: [['← →', 'The frame before or after (event)']],
};

function open(root, parameters, signal) {
  const id = parameters.get('id') ?? '';
  const place = h('div', {}, loading());
  show(root, place);
  let found = null;
  const refresh = async () => {
    try {
      found = await get(`events/${encodeURIComponent(id)}`, {}, signal);
      const history = found.kind === 'alert' ? await alertEvents(found, signal) : [];
      show(place, page(found, history, refresh));
    } catch (error) {
      if (signal.aborted) return;
      const isGone = error.reason === 'EVENT_NOT_FOUND';
      show(place, isGone ? empty('This event is no longer in the journal', 'It was deleted, or it is older than journal.retention. A journal in memory keeps the newest 10,000 events.') : problem(error));
    }
  };
  on('event', (event) => {
    if (event.kind === 'alert' && found?.alert_id === event.alert_id) refresh();
  }, signal);
  on('refresh', () => !found && refresh(), signal);
  if (connection.state === 'open') refresh();
}

/** Returns all events of an alert, the oldest first. */
async function alertEvents(alert, signal) {
  const since = new Date(at(alert.started_at) - 3600000).toISOString();
  const page = await get('events', { kind: 'alert', camera: alert.camera, since, limit: 200 }, signal);
  const events = page.events.filter((event) => event.alert_id === alert.alert_id);
  return events.length ? events.reverse() : [alert];
}

function page(event, history, changed) {
  const time = event.window?.to ?? event.since ?? event.published_at;
  const newest = history.at(-1) ?? event;
  return [
    head(`${KINDS[event.kind]} · ${event.camera}`, h('p', { class: 'head-note' }, moment(time)), severity(event),
      h('div', { class: 'head-actions' }, actions(event, changed))),
    h('div', { class: 'event' },
      h('div', { class: 'event-main' }, text(event, newest), video(newest), filmStrip(event), scores(newest), parts(event), story(event, history)),
      h('aside', { class: 'event-side' }, event.kind === 'alert' ? panel('Alert', acknowledgement(newest, changed)) : null, seen(event), made(event.description ?? event), about(event))),
  ];
}

function severity(event) {
  const known = SEVERITIES[event.severity];
  return known ? pill(known.tone, known.word) : null;
}

function panel(title, ...content) {
  return h('section', { class: 'panel' }, h('h2', {}, title), content);
}

function actions(event, changed) {
  const hasWindow = Boolean(event.window);
  const keep = h('button', { type: 'button', class: 'quiet', 'aria-pressed': String(Boolean(event.kept)) }, event.kept ? 'Kept' : 'Keep');
  keep.title = event.kept ? 'Let the event be deleted for its age' : 'Never delete the event for its age';
  keep.addEventListener('click', async () => {
    try {
      await post(`events/${eventId(event)}/keep`, { kept: !event.kept });
      await changed();
    } catch (error) {
      keep.disabled = true;
      keep.title = error.message;
      keep.textContent = error.reason === 'NO_STORE' ? 'Needs journal.folder' : error.message;
    }
  });
  return [
    hasWindow && may('ask') ? link('ask', { camera: event.camera, event: eventId(event) }, { class: 'button' }, 'Ask about this') : null,
    hasWindow ? link('timeline', { camera: event.camera, from: at(event.window.from) - 120000, to: at(event.window.to) + 120000 }, { class: 'button quiet' }, 'Timeline') : null,
    may('ask') && keep,
    copyButton('Copy link', () => location.href),
  ];
}

function text(event, newest) {
  if (event.kind === 'camera_status') {
    return h('div', { class: 'event-text' }, h('p', {}, `${event.camera} is ${(STATES[event.state]?.word ?? event.state).toLowerCase()} since ${moment(event.since)}.`), event.reason ? h('p', { class: 'head-note' }, event.reason) : null);
  }
  if (event.kind === 'rule_status') {
    const words = event.sight === 'blind' ? 'could score no window' : 'scores windows again';
    return h('div', { class: 'event-text' }, h('p', {}, `The rule ${event.rule} ${words} since ${moment(event.since)}.`));
  }
  if (event.kind === 'alert') {
    const described = newest.description?.text;
    return h('div', { class: 'event-text' }, h('p', { class: 'event-question' }, `${event.rule}: ${event.question}`), described ? h('p', {}, described) : null);
  }
  const since = event.unchanged;
  return h('div', { class: 'event-text' },
    event.kind === 'answer' ? h('p', { class: 'event-question' }, event.prompt) : null,
    h('p', {}, since ? `Nothing has changed since ${clock(since.since)}.` : event.text),
    since ? h('p', {}, link('event', { id: eventId(since.event) }, {}, 'The caption of that time')) : null);
}

/** The clip of an alert, or why there is none. */
function video(alert) {
  const { clip } = alert;
  if (!clip) return null;
  if (clip.state === 'pending') return note('The clip is ready some seconds after the alert has ended.');
  if (clip.state === 'missing') return note(`This alert has no clip: ${clip.reason}.`);
  const source = url(`events/${eventId(alert)}/clip`).href;
  const player = h('video', { controls: true, muted: true, playsinline: true, preload: 'metadata', src: source, 'aria-label': `Clip of the alert on ${alert.camera}` });
  const place = h('figure', { class: 'clip' }, player,
    h('figcaption', {}, `${span(clip.span.from, clip.span.to)} · ${clip.codec} · ${bytes(clip.bytes)}${clip.reason ? ` · ${clip.reason}` : ''} · `,
      h('a', { href: source, download: `${alert.camera}-${alert.alert_id}.mp4` }, 'Download')));
  player.addEventListener('error', () => place.prepend(note(`This browser cannot play the clip (${clip.codec}). It can be downloaded.`)));
  return place;
}

function note(words) {
  return h('p', { class: 'event-note' }, words);
}

function scores(alert) {
  if (!alert.curve?.length) return null;
  const points = alert.curve;
  return panel(`Scores, the greatest ${score(alert.peak_score)}`, framed(curve(points), points[0].at, points.at(-1).at));
}

function parts(event) {
  if (!event.parts?.length) return null;
  return panel('Parts', h('dl', { class: 'parts' }, event.parts.map((part) => [
    h('dt', {}, span(part.window.from, part.window.to)),
    h('dd', {}, part.text),
  ])));
}

/** The events of an alert, of which this one is one. */
function story(event, history) {
  if (history.length < 2) return null;
  const words = ({ phase, update, acknowledgement: known, end_reason: reason }) => {
    if (phase === 'new') return 'The alert began';
    if (phase === 'acknowledged') return known?.false_alarm ? 'Marked as false' : 'Acknowledged';
    if (phase === 'end') return { cleared: 'The alert ended', off_schedule: 'The alert ended with the schedule', removed: 'The rule or the camera was removed' }[reason];
    return { scores: 'The alert goes on', description: 'Described', clip: 'The clip was made' }[update];
  };
  return panel('History', h('ol', { class: 'story' }, history.map((one) => h('li', {},
    h('time', {}, clock(one.published_at)),
    eventId(one) === eventId(event) ? h('strong', {}, words(one)) : link('event', { id: eventId(one) }, {}, words(one)),
    h('small', {}, `score ${score(one.score)}`)))));
}

/** What the model saw of the window, in words. */
function seen(event) {
  if (!event.coverage) return null;
  const { coverage, window, frames } = event;
  const slow = frames.filter((frame) => frame.slow).length;
  const missing = coverage.gaps.map((gap) => h('li', {}, pill('warn', span(gap.from, gap.to)), h('p', {}, `${CAUSES[gap.cause] ?? gap.cause}.`)));
  const all = coverage.frames_used >= coverage.frames_expected && missing.length === 0;
  return panel('What the model saw',
    h('p', {}, all ? 'The whole window: ' : '', `${coverage.frames_used} of ${count(coverage.frames_expected, 'frame')}, ${slow} of them in detail.`),
    h('p', { class: 'head-note' }, `${span(window.from, window.to)} (${length((at(window.to) - at(window.from)) / 1000)})`),
    missing.length ? h('ul', { class: 'findings' }, missing) : null);
}

function made({ timing, model, devices, usage }) {
  if (!timing) return null;
  const device = (part) => [part, devices[part].device, devices[part].reason];
  const tokens = usage && `${usage.video_tokens.toLocaleString()} of video, ${usage.text_tokens.toLocaleString()} of text, ${usage.new_tokens.toLocaleString()} written`;
  const rows = [['model', model], device('vision'), device('language'), tokens && ['tokens', tokens, usage.cached_tokens ? `${usage.cached_tokens.toLocaleString()} were read before` : '']];
  return panel(`Written ${length(timing.total_seconds)} after the window`, timingBar(timing), h('dl', { class: 'facts' }, rows.filter(Boolean).map(([name, value, why]) =>
    h('div', {}, h('dt', {}, name[0].toUpperCase() + name.slice(1)), h('dd', {}, value, why ? h('small', {}, why) : null)))));
}

function about(event) {
  const rows = [['Event', eventId(event)], ['Published', moment(event.published_at)], event.question_id && ['Question', event.question_id], event.skipped_windows > 0 && ['Skipped before', count(event.skipped_windows, 'window')]];
  return panel('Event', h('dl', { class: 'facts' }, rows.filter(Boolean).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))));
}
