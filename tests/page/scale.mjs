// Measures the page with many cameras and events: until it can be used, how fast the timeline
// scrolls, and its memory over live updates.
//
//   node scale.mjs ADDRESS

import { assert, check, close, main, open } from './harness.mjs';

const base = process.argv[2];
const CAMERAS = 32;

/** Duration of the measurement of memory, in seconds. */
const SECONDS = Number(process.env.LOOKOUT_PAGE_SECONDS ?? 20);

/** Limits, with room for a machine that does other work. The aims are 2 s and 30 frames per second. */
const USABLE = 10;
const FRAMES = 12;

/** Part of the possible frames that is enough on a machine with too much other work. */
const PART = 1 / 3;

/** Longest time in which the page draws a frame, in milliseconds. */
const DRAWING = 1000 / 30;

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

/** Returns the heap in MB and the number of nodes, without garbage. */
async function memory(session) {
  await session.send('HeapProfiler.collectGarbage');
  const { metrics } = await session.send('Performance.getMetrics');
  const of = (name) => metrics.find((metric) => metric.name === name).value;
  return { heap: of('JSHeapUsedSize') / 1e6, nodes: of('Nodes') };
}

main(async (browser) => {
  await check('the live view can be used soon', async () => {
    const times = [];
    for (let round = 0; round < 3; round += 1) {
      const page = await open(browser, base, 'live');
      await page.waitForFunction((number) => document.querySelectorAll('.tile[data-event]').length === number, CAMERAS, { polling: 20 });
      times.push((await page.evaluate(() => performance.now())) / 1000);
      const pictures = await page.locator('.tile-picture img[src]').count();
      assert(pictures > 0 && pictures < CAMERAS, `${pictures} tiles load pictures`);
      await close(page);
    }
    assert(Math.min(...times) < USABLE, `it took ${times} s`);
    return times.map((time) => `${time.toFixed(2)} s`).join(', ');
  });

  await check('the timeline scrolls smoothly', async () => {
    const page = await open(browser, base, 'timeline?last=24h');
    const loaded = await page.waitForFunction(() => /[5-9]\d,\d{3} captions|1\d\d,\d{3} captions/.test(document.querySelector('.timeline .head-note')?.textContent), null, { polling: 20 });
    await loaded.dispose();
    const ready = (await page.evaluate(() => performance.now())) / 1000;
    const result = await page.evaluate(async () => {
      const canvas = document.querySelector('.lanes canvas');
      const box = canvas.getBoundingClientRect();
      const [drawing, original] = [[], window.requestAnimationFrame];
      window.requestAnimationFrame = (run) => original((time) => {
        const start = performance.now();
        run(time);
        drawing.push(performance.now() - start);
      });
      /** Returns the number of frames per second when each begins with `act`. */
      const rate = async (act) => {
        let frames = 0;
        const start = performance.now();
        await new Promise((resolve) => {
          const next = () => {
            frames += 1;
            act(frames);
            if (performance.now() - start < 3000) original(next);
            else resolve();
          };
          original(next);
        });
        return frames / ((performance.now() - start) / 1000);
      };
      const scrolled = await rate((frame) => {
        const isZoom = frame % 3 === 0;
        const delta = isZoom ? { deltaY: frame % 2 ? 40 : -40 } : { deltaX: frame % 60 < 30 ? -25 : 25 };
        canvas.dispatchEvent(new WheelEvent('wheel', { ...delta, clientX: box.left + 400, clientY: box.top + 60, bubbles: true, cancelable: true }));
      });
      // What this browser on this machine does at the moment: as large a canvas in one colour.
      const plain = document.createElement('canvas');
      Object.assign(plain, { width: canvas.width, height: canvas.height });
      plain.style.cssText = `position: fixed; left: ${box.left}px; top: ${box.top}px; width: ${box.width}px; height: ${box.height}px`;
      document.body.append(plain);
      const context = plain.getContext('2d');
      const possible = await rate((frame) => {
        context.fillStyle = `rgb(${frame % 256}, 0, 0)`;
        context.fillRect(0, 0, plain.width, plain.height);
      });
      return { scrolled, possible, drawing };
    });
    const drawn = median(result.drawing);
    const rates = `${result.scrolled.toFixed(1)} of ${result.possible.toFixed(1)} possible frames per second`;
    assert(result.scrolled >= Math.min(FRAMES, result.possible * PART), rates);
    assert(drawn < DRAWING, `a frame is drawn in ${drawn.toFixed(1)} ms`);
    await close(page);
    return `ready after ${ready.toFixed(2)} s, ${rates}, a frame is drawn in ${drawn.toFixed(1)} ms`;
  });

  for (const view of ['live', 'timeline?last=1h']) {
    await check(`the memory of ${view} stays flat over live updates`, async () => {
      const page = await open(browser, base, view);
      const session = await page.context().newCDPSession(page);
      await session.send('Performance.enable');
      await page.waitForTimeout(4000);
      const before = await memory(session);
      await page.waitForTimeout(SECONDS * 1000);
      const after = await memory(session);
      assert(after.heap < before.heap * 1.5 + 3, `the heap grew from ${before.heap.toFixed(1)} to ${after.heap.toFixed(1)} MB`);
      assert(after.nodes < before.nodes * 1.5 + 500, `the nodes grew from ${before.nodes} to ${after.nodes}`);
      await close(page);
      return `${before.heap.toFixed(2)} → ${after.heap.toFixed(2)} MB, ${before.nodes} → ${after.nodes} nodes in ${SECONDS} s`;
    });
  }
});
