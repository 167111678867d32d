// Pieces of alerts that several views share.

import { post } from './api.js';
import { h, show } from './dom.js';
import { pill, problem } from './parts.js';
import { may } from './session.js';
import { moment } from './time.js';

/** The severities of rules. */
export const SEVERITIES = {
  info: { word: 'Info', tone: 'idle' },
  warning: { word: 'Warning', tone: 'warn' },
  critical: { word: 'Critical', tone: 'bad' },
};

/** The states of a rule. */
export const RULE_STATES = {
  idle: { word: 'Watching', tone: 'good' },
  pending: { word: 'Pending', tone: 'warn' },
  active: { word: 'Alert', tone: 'bad' },
  cooldown: { word: 'Pausing after an alert', tone: 'idle' },
  off_schedule: { word: 'Off schedule', tone: 'idle' },
};

/** Returns the newest frame that the model saw in detail, or else the newest one. */
export function newestSlow(frames) {
  return frames.findLast((frame) => frame.slow) ?? frames.at(-1);
}

/** The acknowledgement of an alert, and the buttons for it if the role permits that. `changed` is
 *  called after a change. */
export function acknowledgement(alert, changed) {
  const place = h('div', { class: 'actions' });
  const known = alert.acknowledgement;
  const send = async (isFalse) => {
    try {
      await post(`alerts/${encodeURIComponent(alert.alert_id)}/acknowledge`, { false_alarm: isFalse });
      await changed();
    } catch (error) {
      show(place, problem(error));
    }
  };
  const button = (text, isFalse) => may('ask') && h('button', { type: 'button', class: 'quiet', onclick: () => send(isFalse) }, text);
  if (!known) show(place, button('Acknowledge', false), button('Mark as false', true));
  else if (known.false_alarm) show(place, pill('idle', `Marked as false, ${moment(known.at)}`), button('Not false', false));
  else show(place, pill('good', `Acknowledged, ${moment(known.at)}`), button('Mark as false', true));
  return place;
}

/** A button that copies a text. Where the browser does not permit that, the text is selected. */
export function copyButton(label, text, from = null) {
  const button = h('button', { type: 'button', class: 'quiet' }, label);
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = 'Copied';
    } catch {
      if (from) getSelection().selectAllChildren(from);
      button.textContent = from ? 'Selected: press Ctrl+C' : 'Copy the address of this page';
    }
    setTimeout(() => (button.textContent = label), 2500);
  });
  return button;
}
