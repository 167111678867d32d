// What does not work, and how to fix it.

import { moment, length } from '../time.js';
import { STATES, count } from '../words.js';

/** What to do about a camera in a state. */
const FIXES = {
  connecting: 'If it stays so, check that the camera is on and that its address is right.',
  stalled: 'It is connected and sends no frames. Check the camera, and its load and network.',
  lost: 'lookout tries again by itself. Check that the camera is on, and that its address and port are right.',
  refused: 'Check the user, the password and the path of its URL.',
  paused: 'Resume in Cameras, or `lookout camera resume`, connects it again.',
};

/**
 * Returns what needs attention, the worst first.
 * @returns {{tone: string, what: string, fix: string}[]}
 */
export function findings(daemon, cameras, metrics) {
  const found = [];
  const add = (tone, what, fix) => found.push({ tone, what, fix });
  if (!daemon.ready) add('bad', `Not ready: ${daemon.not_ready_reason}`, 'Questions can be asked when this is solved.');
  for (const trouble of daemon.troubles) add('bad', trouble, '');
  for (const camera of cameras.filter((camera) => camera.state !== 'live')) {
    const { word, tone } = STATES[camera.state];
    const reason = camera.reason ? `: ${camera.reason}` : '';
    add(tone, `${camera.name}: ${word.toLowerCase()} since ${moment(camera.since)}${reason}`, FIXES[camera.state]);
  }
  const of = (name) => metrics.sum(name);
  if (metrics.has('lookout_mqtt_connected') && !of('lookout_mqtt_connected')) {
    add('bad', 'The MQTT broker is not connected', 'Check mqtt.broker, and that the broker runs. Events are sent when it is back.');
  }
  for (const { target } of metrics.of('lookout_delivery_failing').filter((sample) => sample.value).map((sample) => sample.labels)) {
    add('bad', `Alerts cannot be delivered to ${target}`, 'The log has the error. lookout test-alert sends a sample.');
  }
  for (const { camera, rule } of metrics.of('lookout_rule_blind').filter((sample) => sample.value).map((sample) => sample.labels)) {
    add('warn', `The rule ${rule} cannot see ${camera}`, 'No window could be scored. Check the camera, and the load of the model.');
  }
  const [captions, skipped] = [of('lookout_captions_total'), of('lookout_captions_skipped_total')];
  const share = skipped / Math.max(1, captions + skipped);
  if (share > 0.05) {
    add('warn', `${Math.round(share * 100)} % of the windows got no caption`, 'The model is too slow for the cameras: raise caption_interval, use fewer cameras, or a GPU.');
  }
  const dropped = of('lookout_frames_dropped_total');
  if (dropped > 0.01 * of('lookout_frames_total')) {
    add('warn', `${count(dropped, 'frame')} dropped before they were encoded`, 'Lower fps of the cameras, or use a faster device.');
  }
  if (of('lookout_model_failures_total')) {
    add('warn', `The model failed ${count(of('lookout_model_failures_total'), 'time')}`, 'The log has the error.');
  }
  const wait = metrics.mean('lookout_stage_seconds', { stage: 'wait' }, '');
  if (wait && wait[1] > 5) add('warn', `Texts wait ${length(wait[1])} for the model`, 'The model is busy: captions and answers are late.');
  return found.sort((a, b) => (a.tone === 'bad' ? 0 : 1) - (b.tone === 'bad' ? 0 : 1));
}
