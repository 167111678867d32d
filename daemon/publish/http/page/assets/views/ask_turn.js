// A question of the conversation with its answers, which grow as the model writes them.

import { ApiError, eventId, stream } from '../api.js';
import { h, link, setText, show } from '../dom.js';
import { picture } from '../parts.js';
import { clock, length, moment, span } from '../time.js';
import { CAUSES, coverage, count } from '../words.js';

/** Number of frames that are shown beside an answer. */
const EVIDENCE = 8;

/** A question and the answers of its cameras. */
export class Turn {
  constructor(question, isScored) {
    this.isScored = isScored;
    this.answers = new Map();
    this.end = new AbortController();
    this.state = h('p', { class: 'turn-state', role: 'status' }, 'Asking…');
    this.cancel = h('button', { type: 'button', class: 'quiet' }, 'Cancel');
    this.cancel.addEventListener('click', () => this.end.abort());
    this.cards = h('div', { class: 'answers' });
    this.follow = h('div', {});
    this.element = h('section', { class: 'turn' },
      h('div', { class: 'turn-head' }, h('h2', {}, question), this.cancel),
      this.state, this.cards, this.follow);
  }

  /** Sends questions, one request each, and shows their answers. */
  async ask(bodies) {
    for (const name of bodies.flatMap((body) => body.cameras)) {
      const answer = new Answer(name);
      this.answers.set(name, answer);
      this.cards.append(answer.element);
    }
    const results = await Promise.allSettled(bodies.map((body) => this.receive(body)));
    this.cancel.remove();
    const failed = results.find((result) => result.status === 'rejected')?.reason;
    if (this.end.signal.aborted) this.finish('Cancelled.');
    else if (failed instanceof ApiError) this.finish('', failed);
    else if (failed) throw failed;
    else this.finish('');
  }

  async receive(body) {
    for await (const { data } of stream('ask', { body, signal: this.end.signal })) {
      setText(this.state, '');
      if (data.kind === 'failed') throw new ApiError(data.message, data);
      this.answers.get(data.camera)?.take(data);
    }
  }

  finish(text, error) {
    setText(this.state, text);
    for (const answer of this.answers.values()) answer.close(error);
    const asked = [...this.answers.values()].filter((answer) => answer.event?.conversation);
    if (asked.length && !this.isScored) show(this.follow, this.followUp(asked));
  }

  /** A field for a further question about the same frames. */
  followUp(answers) {
    const input = h('input', { type: 'text', required: true, maxlength: '8192', placeholder: 'Ask more about these frames', 'aria-label': 'Follow-up question' });
    const form = h('form', { class: 'follow-up' }, input, h('button', { class: 'quiet' }, 'Ask'));
    form.addEventListener('submit', (submitted) => {
      submitted.preventDefault();
      const question = input.value.trim();
      if (!question) return;
      const turn = new Turn(question, false);
      this.element.after(turn.element);
      form.remove();
      turn.ask(answers.map(({ camera, event }) => ({ cameras: [camera], question, conversation: event.conversation })));
    });
    return form;
  }
}

/** The answer of a camera. */
class Answer {
  constructor(camera) {
    this.camera = camera;
    this.event = null;
    this.isClosed = false;
    this.text = h('p', { class: 'answer-text' });
    this.parts = h('ol', { class: 'answer-parts' });
    this.evidence = h('div', { class: 'evidence' });
    this.note = h('p', { class: 'answer-note' });
    this.element = h('article', { class: 'answer is-open', 'aria-label': `Answer about ${camera}`, 'aria-live': 'polite', 'aria-busy': 'true' },
      h('h3', {}, camera), this.text, this.parts, this.evidence, this.note);
  }

  /** Takes a message of the stream. */
  take(message) {
    if (message.kind === 'text') this.text.append(message.text);
    else if (message.kind === 'part') this.parts.append(part(message));
    else if (message.kind === 'refused') this.refuse(message);
    else if (message.kind === 'finished') this.finish(message.event);
  }

  refuse(error) {
    const later = error.retryAfter ?? error.retry_after_seconds;
    show(this.text, h('span', { class: 'refused' }, error.message, later ? ` Ask again in ${later} s.` : ''));
    this.end();
  }

  finish(event) {
    this.event = event;
    // A text that only lists the parts would repeat them.
    setText(this.text, event.summary_method === 'list' ? '' : event.text);
    this.text.hidden = !this.text.textContent;
    if (event.parts && event.parts.length !== this.parts.childElementCount) show(this.parts, event.parts.map(part));
    if (event.yes_score !== undefined) this.text.append(score(event.yes_score));
    show(this.evidence, sample(event.frames).map((frame) => {
      const time = clock(frame.captured_at);
      return h('figure', { class: frame.slow ? 'is-slow' : '' }, picture(this.camera, frame, `${this.camera} at ${time}`), h('figcaption', {}, time));
    }));
    const gaps = event.coverage.gaps.map((gap) => `${CAUSES[gap.cause] ?? gap.cause}, ${span(gap.from, gap.to)}`);
    show(this.note, `${span(event.window.from, event.window.to)} · ${coverage(event.coverage)} · answered in ${length(event.timing.total_seconds)} · `,
      link('event', { id: eventId(event) }, {}, 'Details'),
      gaps.length ? h('span', { class: 'gaps' }, `${count(gaps.length, 'gap')}: ${gaps.slice(0, 3).join('; ')}${gaps.length > 3 ? '; …' : ''}`) : null);
    this.end();
  }

  /** Ends an answer that did not end by itself. */
  close(error) {
    if (this.isClosed) return;
    if (error) this.refuse(error);
    else if (!this.text.textContent) setText(this.text, 'No answer.');
    this.end();
  }

  end() {
    this.isClosed = true;
    this.element.classList.remove('is-open');
    this.element.setAttribute('aria-busy', 'false');
  }
}

function part({ window, text, coverage: seen }) {
  return h('li', {}, h('span', { class: 'part-time' }, `${moment(window.from)} – ${clock(window.to)}`),
    h('span', {}, text), seen.gaps.length ? h('small', {}, coverage(seen)) : null);
}

/** The score of a yes/no question as a bar. */
function score(value) {
  const percent = Math.round(value * 100);
  return h('span', { class: 'score' },
    h('meter', { min: '0', max: '1', value: String(value), 'aria-label': 'Probability of yes' }),
    ` ${percent} % yes`);
}

/** Returns at most `EVIDENCE` frames, the slow ones first of all, in order of time. */
function sample(frames) {
  const slow = frames.filter((frame) => frame.slow);
  const from = slow.length ? slow : frames;
  if (from.length <= EVIDENCE) return from;
  return Array.from({ length: EVIDENCE }, (_, at) => from[Math.round((at * (from.length - 1)) / (EVIDENCE - 1))]);
}
