// Checks that markup in every text is shown as text, that a search finds a planted event, and that
// an answer can be cancelled.
//
//   node markup.mjs ADDRESS MARKUP

import { act, assert, check, close, main, open } from './harness.mjs';

const [base, markup] = process.argv.slice(2);

/** Fails if a text became an element. */
async function isText(page) {
  const made = await page.locator('img[src="x"], [onerror]').count();
  assert(made === 0, `${made} elements were made of a text`);
}

main(async (browser) => {
  await check('markup in captions, names and reasons is text', async () => {
    const page = await open(browser, base, 'live');
    await page.locator('.tile-text', { hasText: markup }).first().waitFor();
    await page.locator('.tile h2', { hasText: markup }).waitFor();
    await isText(page);
    await page.goto(`${base}#/timeline?last=1h`);
    await page.locator('.lane-label', { hasText: markup }).waitFor();
    await isText(page);
    await page.goto(`${base}#/search?q=onerror`);
    await page.locator('.hit', { hasText: '<img src=x' }).first().waitFor();
    await isText(page);
    await page.goto(`${base}#/status`);
    await page.locator('tbody th', { hasText: markup }).waitFor();
    await isText(page);
    await close(page);
  });

  await check('markup in questions and answers is text', async () => {
    const page = await open(browser, base, `ask?camera=gate&q=${encodeURIComponent(markup)}`);
    await page.getByRole('button', { name: 'Ask', exact: true }).click();
    await page.locator('.answer[aria-busy=false] .answer-text', { hasText: markup }).waitFor();
    await page.locator('.turn h2', { hasText: markup }).waitFor();
    await isText(page);
    await close(page);
  });

  await check('a search finds a planted event', async () => {
    const page = await open(browser, base, 'search?q=zeppelin&camera=gate');
    await page.locator('.hit mark', { hasText: 'zeppelin' }).waitFor();
    const hits = await page.locator('.hit').allTextContents();
    assert(hits.length === 1, `the results are: ${hits.join('; ')}`);
    await page.goto(`${base}#/search?q=submarine`);
    await page.getByText('Nothing found').waitFor();
    await close(page);
  });

  await check('an answer can be cancelled', async () => {
    const page = await open(browser, base, 'ask?camera=gate&q=Forever%3F');
    await page.getByRole('button', { name: 'Ask', exact: true }).click();
    await page.locator('.answer-text', { hasText: '…' }).waitFor();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.locator('.turn-state', { hasText: 'Cancelled.' }).waitFor();
    await act('cancelled');
    await close(page);
  });
});
