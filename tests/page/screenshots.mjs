// Takes a screenshot of every view for the documents.

import { fileURLToPath } from 'node:url';

import { DESKTOP, PHONE, check, close, open } from './harness.mjs';

const FOLDER = fileURLToPath(new URL('../../docs/images/', import.meta.url));

/** The name of a picture, the view, the element that shows that the view is ready, and the window. */
const PICTURES = [
  ['page-live', 'live', '.tile[data-event] img[src]', {}],
  ['page-live-phone', 'live', '.tile[data-event] img[src]', { viewport: PHONE }],
  ['page-timeline', 'timeline?last=1h', '.timeline-list li', {}],
  ['page-timeline-dark', 'timeline?last=1h', '.timeline-list li', { colorScheme: 'dark' }],
  ['page-ask', 'ask?camera=gate&camera=yard&q=Is+there+a+person%3F', '.ask-form', {}],
  ['page-search', 'search?q=person', '.hit img', {}],
  ['page-status', 'status', '.status table', { viewport: { ...DESKTOP, height: 980 } }],
];

/** Brings a view into a state that shows what it is for. */
async function prepare(page, view) {
  if (view.startsWith('ask')) {
    await page.getByRole('button', { name: 'Ask', exact: true }).click();
    await page.locator('.answer[aria-busy=false] .evidence img').nth(7).waitFor();
  }
  if (view.startsWith('timeline')) {
    await page.locator('.lanes').focus();
    for (let presses = 0; presses < 4; presses += 1) await page.keyboard.press('+');
    for (let presses = 0; presses < 4; presses += 1) await page.keyboard.press('ArrowLeft');
    await page.locator('.timeline-details .timeline-text').waitFor();
  }
  // Pictures are loaded, and the focus is of no interest.
  await page.waitForTimeout(1500);
  await page.evaluate(() => document.activeElement.blur());
}

/** Writes the pictures to `docs/images`. */
export async function screenshots(browser, base) {
  for (const [name, view, ready, options] of PICTURES) {
    await check(`the picture ${name}`, async () => {
      const page = await open(browser, base, view, options);
      await page.locator(ready).first().waitFor();
      await prepare(page, view);
      await page.screenshot({ path: `${FOLDER}${name}.jpg`, type: 'jpeg', quality: 78 });
      await close(page);
    });
  }
}
