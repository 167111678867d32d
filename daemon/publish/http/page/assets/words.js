// The API's values as words.

/** The causes of gaps. */
export const CAUSES = {
  camera_down: 'The camera sent no frames',
  overload: 'The daemon had no time for the frames',
  evicted: 'The frames have left the buffer',
  before_start: 'The daemon was not running',
  clock: 'A clock was set',
  corrupt: 'The frames were damaged',
  model_failed: 'The model failed on the frames',
};

/** The states of a camera, with the colour that shows each. */
export const STATES = {
  connecting: { word: 'Connecting', tone: 'warn' },
  live: { word: 'Live', tone: 'good' },
  stalled: { word: 'Stalled', tone: 'warn' },
  lost: { word: 'Lost', tone: 'bad' },
  refused: { word: 'Refused', tone: 'bad' },
  paused: { word: 'Paused', tone: 'warn' },
};

/** Returns a number with its noun. */
export function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString()} ${number === 1 ? noun : plural}`;
}

/** Returns a size in the largest unit that fits. */
export function bytes(size) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = size < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(size) / 10));
  const value = size / 1024 ** power;
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

/** Returns what the model saw of a window, as short as it can be said. */
export function coverage({ frames_used: used, frames_expected: expected }) {
  return `${used} of ${expected} frames`;
}
