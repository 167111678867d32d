// Moves the timeline: by wheel, by dragging, by two fingers and by keys.

import { AXIS } from './timeline_paint.js';

/** Distance in pixels up to which a press is a click. */
const CLICK = 4;

/**
 * @param {HTMLElement} box The box with the canvas, which has the focus.
 * @param {object} view The timeline: `from`, `to`, `lanes`, `laneHeight`, and the functions
 *   `moveTo(from, to)`, `setCursor(time, lane)`, `select(from, to)`, `openEvent()`, `isSelecting`.
 */
export function listen(box, canvas, view, signal) {
  const timeAt = (x) => view.from + (x / canvas.clientWidth) * (view.to - view.from);
  const laneAt = (y) => Math.max(0, Math.min(view.lanes.length - 1, Math.floor((y - AXIS) / view.laneHeight)));
  const place = (event) => {
    const rectangle = canvas.getBoundingClientRect();
    return { x: event.clientX - rectangle.left, y: event.clientY - rectangle.top };
  };
  const zoom = (factor, time) => view.moveTo(time - (time - view.from) * factor, time + (view.to - time) * factor);
  const pan = (share) => {
    const by = (view.to - view.from) * share;
    view.moveTo(view.from + by, view.to + by);
  };

  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    const isSideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (isSideways) pan((event.deltaX || event.deltaY) / canvas.clientWidth);
    else zoom(1.0015 ** event.deltaY, timeAt(place(event).x));
  }, { signal, passive: false });

  const fingers = new Map();
  let press = null;
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    const at = place(event);
    fingers.set(event.pointerId, at);
    const isSelecting = event.shiftKey || view.isSelecting || (at.y < AXIS && event.pointerType === 'mouse');
    press = { ...at, from: view.from, to: view.to, isSelecting, isMoved: false };
    box.focus({ preventScroll: true });
  }, { signal });
  canvas.addEventListener('pointermove', (event) => {
    const at = place(event);
    if (!press) {
      view.setHover(timeAt(at.x), laneAt(at.y));
      return;
    }
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    const before = fingers.get(event.pointerId);
    fingers.set(event.pointerId, at);
    press.isMoved ||= Math.abs(at.x - press.x) > CLICK;
    if (!press.isMoved) return;
    if (others.length && before) {
      const [was, is] = [before, at].map((one) => Math.max(12, Math.abs(one.x - others[0].x)));
      zoom(was / is, timeAt((at.x + others[0].x) / 2));
    } else if (press.isSelecting) {
      view.select(timeAt(press.x), timeAt(at.x));
    } else {
      const by = ((press.x - at.x) / canvas.clientWidth) * (press.to - press.from);
      view.moveTo(press.from + by, press.to + by);
    }
  }, { signal });
  const up = (event) => {
    fingers.delete(event.pointerId);
    if (!press) return;
    const { isMoved } = press;
    press = null;
    if (!isMoved && event.type === 'pointerup') {
      const at = place(event);
      view.setCursor(timeAt(at.x), laneAt(at.y));
    }
  };
  canvas.addEventListener('pointerup', up, { signal });
  canvas.addEventListener('pointercancel', up, { signal });
  canvas.addEventListener('pointerleave', () => view.setHover(null), { signal });

  box.addEventListener('keydown', (event) => {
    if (event.target !== box || event.ctrlKey || event.metaKey || event.altKey) return;
    const start = view.isFollowing ? Date.now() : (view.from + view.to) / 2;
    const cursor = view.cursor ?? { time: start, lane: 0 };
    const step = (view.to - view.from) / 60;
    const move = (by) => {
      const time = Math.min(Date.now(), cursor.time + by);
      if (event.shiftKey) view.extend(cursor.time, time);
      view.setCursor(time, cursor.lane);
    };
    const lane = (by) => view.setCursor(cursor.time, Math.max(0, Math.min(view.lanes.length - 1, cursor.lane + by)));
    const keys = {
      ArrowLeft: () => move(-step),
      ArrowRight: () => move(step),
      ArrowUp: () => lane(-1),
      ArrowDown: () => lane(1),
      PageUp: () => pan(-0.8),
      PageDown: () => pan(0.8),
      '+': () => zoom(0.6, cursor.time),
      '=': () => zoom(0.6, cursor.time),
      '-': () => zoom(1 / 0.6, cursor.time),
      Home: () => view.follow(),
      Enter: () => view.openEvent(),
      Escape: () => view.select(null),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }, { signal });
}
