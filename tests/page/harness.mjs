// Opens the page in Chromium, runs checks and prints their results, one line each.
//
// Every page fails its check if it writes an error to the console or asks another host.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer, request } from 'node:http';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const root = new URL('../../', import.meta.url);
const require = createRequire(new URL('target/npm/', root));
const { chromium } = require('playwright-core');

/** Longest wait for something that the page shows, in milliseconds. */
export const SOON = 45000;

/** Longest run of a script. */
const LIMIT = Number(process.env.LOOKOUT_PAGE_SECONDS ?? 0) * 1000 + 480000;

export const DESKTOP = { width: 1360, height: 860 };
export const PHONE = { width: 390, height: 844 };

const AXE = fileURLToPath(new URL('target/npm/node_modules/axe-core/axe.min.js', root));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let failures = 0;

/** Asks the test that runs this script to do something. */
export async function act(name) {
  console.log(`act ${name}`);
  await lines.next();
}

/** Runs a check and prints its result. */
export async function check(name, run) {
  const start = performance.now();
  try {
    const note = await run();
    console.log(`ok ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)${note ? `: ${note}` : ''}`);
  } catch (error) {
    failures += 1;
    console.log(`failed ${name}: ${String(error.stack ?? error).replaceAll('\n', ' | ')}`);
  }
}

/** Fails with a message unless a condition holds. */
export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

/** Waits until `read` returns something true. */
export async function until(what, read, limit = SOON) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await read();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${limit / 1000} s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Runs `script` with a browser and ends the process with the number of failed checks. */
export async function main(script) {
  setTimeout(() => {
    console.log('failed the script did not end in time');
    process.exit(1);
  }, LIMIT).unref();
  const executablePath = process.env.LOOKOUT_CHROMIUM ?? '/usr/bin/chromium';
  // The sandbox needs a user other than root. The page is our own.
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
  try {
    await script(browser);
  } catch (error) {
    failures += 1;
    console.log(`failed the script: ${String(error.stack ?? error).replaceAll('\n', ' | ')}`);
  }
  await browser.close();
  process.exit(failures ? 1 : 0);
}

/** Opens a page at a view. `faults` are what it did wrong so far, without console errors that match
 *  `expected`. */
export async function open(browser, base, view, { viewport = DESKTOP, colorScheme = 'light', expected = null, ...more } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion: 'reduce', locale: 'en-GB', ...more });
  context.setDefaultTimeout(SOON);
  const page = await context.newPage();
  page.faults = [];
  /** True while the daemon is away, so that requests fail. */
  page.isCut = false;
  page.on('console', (message) => {
    const isCut = page.isCut && /Failed to load resource|WebSocket connection/.test(message.text());
    if (message.type() === 'error' && !isCut && !expected?.test(message.text())) page.faults.push(message.text());
  });
  page.on('pageerror', (error) => page.faults.push(String(error)));
  page.on('dialog', (dialog) => {
    page.faults.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.route('**/*', (route) => {
    const url = new URL(route.request().url());
    if (url.origin === new URL(base).origin) return route.continue();
    page.faults.push(`a request to ${url.href}`);
    return route.abort();
  });
  await page.goto(`${base}#/${view}`);
  return page;
}

/** Closes a page and fails if it did something wrong. */
export async function close(page) {
  const { faults } = page;
  await page.unrouteAll({ behavior: 'ignoreErrors' });
  await page.context().close();
  assert(faults.length === 0, `the page reported: ${faults.join('; ')}`);
}

/** Fails if axe finds a serious or critical fault. */
export async function accessible(page) {
  // The page's policy refuses a further script, so axe runs as the driver's own.
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  const shown = grave.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.html} (${node.failureSummary})`).join(', ')}`);
  assert(grave.length === 0, `axe: ${shown.join('; ')}`);
  return `${violations.length} lesser findings`;
}

/** Fails if the page is wider than the window. */
export async function fits(page) {
  const [width, window_width] = await page.evaluate(() => [document.scrollingElement.scrollWidth, window.innerWidth]);
  assert(width <= window_width, `the page is ${width} pixels wide in a window of ${window_width}`);
}

/** Fails unless a video plays: its time advances twice. */
export async function plays(video) {
  const time = () => video.evaluate((video) => video.currentTime);
  for (let round = 0; round < 2; round += 1) {
    const before = await time();
    await until('the video to advance', async () => (await time()) > before + 0.2);
  }
  const [width, error] = await video.evaluate((video) => [video.videoWidth, video.error?.message]);
  assert(width > 0 && !error, `a video of width ${width}: ${error}`);
}

/** Signs in by the form that the page shows. */
export async function signIn(page, token) {
  await page.getByLabel('Token', { exact: true }).fill(token);
  await page.getByRole('button', { name: 'Sign in', exact: true }).click();
}

/** Reads a value of the API. */
export async function api(base, path) {
  const response = await fetch(new URL(`api/v1/${path}`, base));
  assert(response.ok, `${path}: ${response.status}`);
  return response.json();
}

/** Returns the parameters of a question about the window of a camera's newest caption. Its frames
 *  are in the buffer, while a loaded machine may not have those of the last seconds yet. */
export function aboutWindow({ camera, window }) {
  return `camera=${camera}&from=${Date.parse(window.from)}&to=${Date.parse(window.to)}`;
}

/** Starts a proxy that serves `base` at a prefix. Returns its address. */
export async function proxy(base, prefix) {
  const target = new URL(base);
  const server = createServer((asked, reply) => {
    if (!asked.url.startsWith(prefix)) {
      reply.writeHead(404).end();
      return;
    }
    const headers = { ...asked.headers };
    const to = request({ host: target.hostname, port: target.port, path: asked.url.slice(prefix.length - 1), method: asked.method, headers }, (from) => {
      reply.writeHead(from.statusCode, from.headers);
      from.pipe(reply);
    });
    to.on('error', () => reply.destroy());
    reply.on('close', () => to.destroy());
    asked.pipe(to);
  });
  // A WebSocket: its head with the other path, then bytes in both directions.
  server.on('upgrade', (asked, socket, first) => {
    const to = connect(target.port, target.hostname, () => {
      const headers = asked.rawHeaders.flatMap((text, at) => (at % 2 ? [] : [`${text}: ${asked.rawHeaders[at + 1]}`]));
      to.write([`GET ${asked.url.slice(prefix.length - 1)} HTTP/1.1`, ...headers, '', ''].join('\r\n'));
      to.write(first);
      socket.pipe(to).pipe(socket);
    });
    for (const [one, other] of [[socket, to], [to, socket]]) one.on('error', () => other.destroy()).on('close', () => other.destroy());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  return `http://127.0.0.1:${server.address().port}${prefix}`;
}
