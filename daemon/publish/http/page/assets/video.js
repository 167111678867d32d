// Live video: fragments of an MP4 file from a WebSocket, which the browser plays by Media Source
// Extensions. A WebSocket and not a request: browsers allow only six requests at a time to a host,
// and as many videos as there are tiles.

import { sentence, url } from './api.js';
import { connection } from './feed.js';

/** Seconds of video that stay behind the position, and by which it may be behind the newest. */
const KEPT = 8;
const BEHIND = 2.5;

/** Pause before a video that ended begins again, in milliseconds, and before one that was refused. */
const AGAIN = 1000;
const AFTER_REFUSAL = 30000;

/** Fragments that may wait for the browser. It takes them at once, unless it is far too slow. */
const WAITING = 500;

const Source = window.MediaSource ?? window.ManagedMediaSource;

export class LiveVideo {
  /**
   * @param {string} camera
   * @param {HTMLVideoElement} video
   * @param {(state: 'playing' | 'waiting' | 'none', reason: string) => void} changed `none`: the
   *   camera has no live video, or the browser cannot play it.
   */
  constructor(camera, video, changed) {
    this.camera = camera;
    this.video = video;
    this.changed = changed;
    this.socket = null;
    this.timer = 0;
    video.addEventListener('playing', () => this.socket && changed('playing', ''));
  }

  start() {
    if (this.socket || this.timer) return;
    if (!Source) {
      this.changed('none', 'This browser cannot play live video.');
      return;
    }
    this.connect();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.close();
    this.changed('waiting', '');
  }

  connect() {
    this.timer = 0;
    if (connection.state !== 'open') {
      // The browser would report each attempt as an error.
      this.timer = setTimeout(() => this.connect(), AGAIN);
      return;
    }
    const target = url(`cameras/${encodeURIComponent(this.camera)}/live`);
    target.protocol = target.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(target);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.waiting = [];
    socket.addEventListener('message', ({ data }) => {
      if (this.socket !== socket) return;
      if (typeof data === 'string') this.told(JSON.parse(data));
      else this.append(data);
    });
    socket.addEventListener('close', () => this.socket === socket && this.again(AGAIN, ''));
  }

  told(message) {
    if (message.kind === 'started') this.play(message.mime_type);
    if (message.kind === 'ended') this.again(AGAIN, sentence(message.reason));
    if (message.kind === 'unavailable' || message.kind === 'refused') {
      this.again(AFTER_REFUSAL, sentence(message.message), 'none');
    }
  }

  play(type) {
    if (!Source.isTypeSupported(type)) {
      const codec = /codecs="(hvc1|hev1)/.test(type) ? 'H.265' : 'this video';
      this.close();
      this.changed('none', `This browser cannot play ${codec}.`);
      return;
    }
    const source = new Source();
    this.video.disableRemotePlayback = true;
    this.address = URL.createObjectURL(source);
    this.video.src = this.address;
    source.addEventListener('sourceopen', () => {
      if (!this.socket || this.buffer) return;
      this.buffer = source.addSourceBuffer(type);
      this.buffer.addEventListener('updateend', () => this.next());
      this.buffer.addEventListener('error', () => this.again(AGAIN, 'The video could not be decoded.'));
      this.next();
    });
  }

  append(data) {
    this.waiting.push(data);
    if (this.waiting.length > WAITING) this.again(AGAIN, 'The browser is too slow for the video.');
    else this.next();
  }

  /** Gives the browser what it can take now. */
  next() {
    const { buffer, video } = this;
    if (!buffer || buffer.updating) return;
    try {
      const begin = buffer.buffered.length ? buffer.buffered.start(0) : 0;
      if (video.currentTime - begin > 2 * KEPT) buffer.remove(begin, video.currentTime - KEPT);
      else if (this.waiting.length) buffer.appendBuffer(this.waiting.shift());
      this.follow();
    } catch (error) {
      this.again(AGAIN, error.message);
    }
  }

  /** Keeps the position near the newest picture. */
  follow() {
    const { video, buffer } = this;
    const last = buffer.buffered.length - 1;
    if (last < 0) return;
    const [from, to] = [buffer.buffered.start(last), buffer.buffered.end(last)];
    const behind = to - video.currentTime;
    if (video.currentTime < from || behind > BEHIND) video.currentTime = Math.max(from, to - 0.4);
    video.playbackRate = behind > 1.2 ? 1.06 : 1;
    if (video.paused) video.play().catch(() => {});
  }

  /** Begins again after a pause. */
  again(pause, reason, state = 'waiting') {
    this.close();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), pause);
    this.changed(state, reason);
  }

  close() {
    const { socket } = this;
    this.socket = null;
    this.buffer = null;
    this.waiting = [];
    socket?.close();
    if (this.address) {
      URL.revokeObjectURL(this.address);
      this.address = null;
      this.video.removeAttribute('src');
      this.video.load();
    }
  }
}
