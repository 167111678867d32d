// The view Search: finds captions and answers by their words and their meaning. The address has the
// search, so that it can be linked.

import { eventId, get } from '../api.js';
import { address, h, link, setText, show } from '../dom.js';
import { cameras, connection, on } from '../feed.js';
import { cameraChoice, empty, head, loading, picture, problem } from '../parts.js';
import { length, moment } from '../time.js';
import { count } from '../words.js';
import { Range } from './range.js';

const PAGE = 24;

const PRESETS = [['', 'Any time'], ['1h', 'The last hour'], ['24h', 'The last 24 hours'], ['7d', 'The last 7 days']];
const MODES = [['', 'Words and meaning'], ['words', 'Words'], ['meaning', 'Meaning']];
const KINDS = [['', 'Captions and answers'], ['caption', 'Captions'], ['answer', 'Answers']];

export const search = {
  path: 'search',
  title: 'Search',
  icon: 'M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.5 4.5',
  keys: [['/', 'Search']],
  open,
};

function open(root, parameters, signal) {
  const chosen = new Set();
  const words = h('input', { type: 'search', placeholder: 'A red car', 'aria-label': 'Search for', required: true });
  const select = (options) => h('select', {}, options.map(([value, text]) => h('option', { value }, text)));
  const [mode, kind] = [select(MODES), select(KINDS)];
  const choice = h('div', {});
  const range = new Range(PRESETS, 'Time', () => words.value && submit());
  const field = (name, input) => h('label', { class: 'field' }, h('span', {}, name), input);
  const form = h('form', { class: 'search-form', role: 'search' },
    h('div', { class: 'search-line' }, words, h('button', {}, 'Search')),
    h('div', { class: 'search-filters' }, choice, field('Compare', mode), field('Kind', kind), range.element));
  const results = h('div', { class: 'results' });
  const state = h('p', { class: 'search-state', role: 'status' });
  show(root, head('Search'), form, state, results);

  const submit = () => {
    const { last, from, to } = range.value;
    const target = address('search', { q: words.value.trim(), camera: [...chosen], mode: mode.value, kind: kind.value, last, from, to });
    if (location.hash === target) run();
    else location.hash = target;
  };
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  for (const input of [mode, kind]) input.addEventListener('change', () => words.value && submit());

  let asked = null;
  /** Searches. `again` keeps the results that are shown until the new ones are there. */
  const run = async (offset = 0, again = false) => {
    asked?.abort();
    const asking = new AbortController();
    asked = asking;
    signal.addEventListener('abort', () => asking.abort(), { once: true });
    if (!words.value.trim()) {
      setText(state, '');
      show(results, empty('Find what the cameras saw', 'Search by words, such as “red car”, or describe what you look for.'));
      return;
    }
    const { last, from, to } = range.value;
    const query = { q: words.value.trim(), camera: [...chosen], mode: mode.value, kind: kind.value, since: last ?? from, until: to, limit: PAGE, offset };
    if (offset === 0 && !(again && results.querySelector('.hits'))) show(results, loading('Searching…'));
    try {
      const found = await get('search', query, asking.signal);
      if (asking.signal.aborted) return;
      if (offset === 0) show(results, found.results.length ? h('ol', { class: 'hits' }) : nothing(query));
      results.querySelector('.hits')?.append(...found.results.map(hit));
      results.querySelector('.more')?.remove();
      if (found.next_offset !== null) results.append(more(() => run(found.next_offset)));
      setText(state, `${count(results.querySelectorAll('.hit').length, 'result')}${found.next_offset === null ? '' : ' so far'}. ${coverage(found.coverage)}`);
    } catch (error) {
      if (asking.signal.aborted) return;
      setText(state, '');
      show(results, error.reason === 'NO_STORE' ? withoutStore() : problem(error));
    }
  };

  const take = (given) => {
    words.value = given.get('q') ?? '';
    mode.value = given.get('mode') ?? '';
    kind.value = given.get('kind') ?? '';
    chosen.clear();
    given.getAll('camera').forEach((name) => chosen.add(name));
    if (given.get('from')) range.setBetween(given.get('from'), given.get('to') ?? Date.now());
    else range.setLast(given.get('last') ?? '');
    showChoice();
    run();
  };
  const showChoice = () => show(choice, cameras.size > 1 ? cameraChoice([...cameras.keys()], chosen, () => words.value && submit()) : null);
  on('cameras', () => choice.querySelectorAll('input').length !== cameras.size && showChoice(), signal);
  on('connection', () => connection.state === 'open' && run(0, true), signal);
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.target.closest('input, textarea, select')) return;
    event.preventDefault();
    words.focus();
  }, { signal });
  take(parameters);
  if (!words.value && matchMedia('(hover: hover)').matches) words.focus();
  return take;
}

function hit(event) {
  const frame = event.frames.find((frame) => frame.slow) ?? event.frames[0];
  const isAnswer = event.kind === 'answer';
  return h('li', { class: 'hit' },
    link('event', { id: eventId(event) }, { class: 'hit-picture', tabindex: '-1', 'aria-hidden': 'true' }, frame ? picture(event.camera, frame, '') : null),
    h('div', { class: 'hit-body' },
      h('p', { class: 'hit-head' }, h('b', {}, event.camera), ` · ${moment(event.window.from)}${isAnswer ? ' · answer' : ''}`, event.similarity === undefined || event.words_rank ? null : ' · by meaning'),
      isAnswer ? h('p', { class: 'hit-question' }, event.prompt) : null,
      h('p', { class: 'hit-text' }, link('event', { id: eventId(event) }, {}, marked(event.snippet)))));
}

/** Returns a snippet as nodes: the words that matched stand in brackets. */
function marked(snippet) {
  return snippet.split(/(\[[^[\]]*\])/).map((piece) => (/^\[.*\]$/.test(piece) ? h('mark', {}, piece.slice(1, -1)) : piece));
}

function more(next) {
  const button = h('button', { type: 'button', class: 'quiet' }, 'More results');
  button.addEventListener('click', next);
  return h('div', { class: 'more' }, button);
}

/** Says for how much of the time the journal has captions, and what the search by meaning misses. */
function coverage({ asked, cameras: covered, meaning }) {
  if (!asked) return 'The journal has no event yet.';
  const whole = (Date.parse(asked.to) - Date.parse(asked.from)) / 1000;
  const each = covered.map(({ camera, recorded_seconds: recorded }) => `${camera} ${length(Math.min(whole, recorded))}`);
  const parts = [`Searched captions of ${each.slice(0, 6).join(', ') || 'no camera'}${each.length > 6 ? ', …' : ''}, of ${length(whole)}.`];
  if (meaning?.is_loading) parts.push('The search by meaning is still loading: it may find less.');
  else if (meaning?.events_without_vector) {
    parts.push(`${meaning.is_lower_bound ? 'At least ' : ''}${count(meaning.events_without_vector, 'event')} can be found by words only, so far.`);
  }
  return parts.join(' ');
}

function nothing({ mode, q }) {
  return empty('Nothing found', mode === 'words' ? `No text has all words of “${q}”. Compare by meaning, or use fewer words.` : `No caption or answer is like “${q}” in this time.`);
}

function withoutStore() {
  return empty('This daemon has no journal on disk', 'Search reads the captions and answers that the journal stores. Set journal.folder in lookout.toml and restart lookout. Until then, Timeline shows the newest 10,000 events.');
}
