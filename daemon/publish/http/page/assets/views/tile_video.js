// Live video in the tiles of cameras, in as many as a browser plays easily.

import { h } from '../dom.js';
import { LiveVideo } from '../video.js';

/** Number of videos that play at the same time. Further tiles show frames. */
const VIDEOS = 9;

/** The key of the choice in the browser's storage. */
const CHOICE = 'lookout.live-video';

/** The videos that play, or wait for their camera. */
const playing = new Set();

/** Returns true unless the viewer has switched live video off. */
export function isWanted() {
  return localStorage.getItem(CHOICE) !== 'off';
}

/** A switch for live video. `changed` is called after a change. */
export function videoSwitch(changed) {
  const input = h('input', { type: 'checkbox', checked: isWanted() });
  input.addEventListener('change', () => {
    localStorage.setItem(CHOICE, input.checked ? 'on' : 'off');
    changed();
  });
  return h('label', { class: 'chip' }, input, h('span', {}, 'Live video'));
}

/** The video of a tile, which covers the tile's frame while it plays. */
export class TileVideo {
  constructor(camera, tile) {
    this.element = h('video', { muted: true, playsinline: true, 'aria-label': `Live video of ${camera}`, hidden: true });
    this.element.muted = true;
    this.live = new LiveVideo(camera, this.element, (state) => {
      this.element.hidden = state !== 'playing';
      tile().classList.toggle('is-playing', state === 'playing');
      // Another tile may have the place of a camera without video.
      if (state === 'none') playing.delete(this);
    });
  }

  /** Plays while the tile is on the screen, the page is seen and there is a place. */
  update(isSeen) {
    if (!isSeen || document.hidden || !isWanted()) this.stop();
    else if (playing.size < VIDEOS || playing.has(this)) {
      playing.add(this);
      this.live.start();
    }
  }

  stop() {
    playing.delete(this);
    this.live.stop();
    this.element.hidden = true;
  }
}
