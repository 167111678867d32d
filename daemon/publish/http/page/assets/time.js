// Times as people read them, in the viewer's zone.

const format = (options) => new Intl.DateTimeFormat(undefined, options);
const CLOCK = format({ hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const MINUTES = format({ hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const DAY = format({ weekday: 'short', day: 'numeric', month: 'short' });

/** The name of the viewer's zone. */
export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Reads a time of the API into milliseconds since 1970. */
export function at(time) {
  return typeof time === 'number' ? time : Date.parse(time);
}

/** Returns the time of day with seconds. */
export function clock(time) {
  return CLOCK.format(at(time));
}

/** Returns the time of day without seconds. */
export function minutes(time) {
  return MINUTES.format(at(time));
}

/** Returns the day, with its weekday. */
export function day(time) {
  return DAY.format(at(time));
}

/** Returns true if a time is today. */
export function isToday(time) {
  return new Date(at(time)).toDateString() === new Date().toDateString();
}

/** Returns the time of day, with the day unless it is today. */
export function moment(time) {
  return isToday(time) ? clock(time) : `${day(time)}, ${clock(time)}`;
}

/** Returns a span: the day is named once. */
export function span(from, to) {
  const sameDay = new Date(at(from)).toDateString() === new Date(at(to)).toDateString();
  return `${moment(from)} – ${sameDay ? clock(to) : moment(to)}`;
}

/** Returns a length of time in its two largest units. */
export function length(seconds) {
  const s = Math.max(0, seconds);
  if (s > 0 && s < 0.1) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 10) return `${Number(s.toFixed(1))} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const units = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = units.findIndex(([size]) => s >= size);
  const whole = Math.floor(s / units[first][0]);
  const rest = Math.floor((s - whole * units[first][0]) / (units[first + 1]?.[0] ?? 1));
  const more = rest && first < 3 ? ` ${rest} ${units[first + 1][1]}` : '';
  return `${whole} ${units[first][1]}${more}`;
}

/** Returns how long ago a time was, in one unit. */
export function ago(time, now = Date.now()) {
  const seconds = Math.max(0, (now - at(time)) / 1000);
  if (seconds < 1.5) return 'now';
  const [size, unit] = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']].find(([size]) => seconds >= size);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** Returns a time as the value of an input of the type `datetime-local`. */
export function local(time) {
  const date = new Date(at(time));
  return new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}
