// Checks that the page waits for a model that is loading.
//
//   node loading.mjs ADDRESS

import { act, check, close, main, open } from './harness.mjs';

const base = process.argv[2];

main(async (browser) => {
  await check('the page says that the model is loading, and continues', async () => {
    const page = await open(browser, base, 'live');
    page.isCut = true;
    await page.locator('#banner', { hasText: 'The model is loading.' }).waitFor();
    await act('load');
    await page.locator('#banner').waitFor({ state: 'hidden' });
    await page.locator('.tile-text', { hasText: 'It is loaded.' }).waitFor();
    page.faults = page.faults.filter((fault) => !fault.includes('503'));
    await close(page);
  });
});
