// Checks every view on a running daemon with three cameras and one that cannot be reached.
//
//   node views.mjs ADDRESS
//
// With UPDATE_SCREENSHOTS it also takes the pictures of the documents.

import { DESKTOP, PHONE, aboutWindow, accessible, act, api, assert, check, close, fits, main, open, proxy, until } from './harness.mjs';
import { screenshots } from './screenshots.mjs';

const base = process.argv[2];
const VIEWS = ['live', 'timeline?last=1h', 'ask', 'search', 'alerts', 'status'];

/** Waits until a view has its content. */
async function ready(page, view) {
  const content = {
    live: '.tile[data-event] .tile-text',
    timeline: '.timeline-list h2',
    ask: '.ask-form textarea',
    search: '.search-form input[type=search]',
    alerts: '.view-alerts h1',
    status: '.status table tbody tr',
  };
  await page.locator(content[view.split('?')[0]]).first().waitFor();
}

/** Returns the newest caption of a camera. */
async function newestCaption(camera) {
  return (await api(base, `events?kind=caption&camera=${camera}&limit=1`)).events[0];
}

/** Asks a question and returns the element of its answer about a camera. */
async function asked(page, question) {
  await page.getByLabel('Question', { exact: true }).fill(question);
  await page.getByRole('button', { name: 'Ask', exact: true }).first().click();
  const answer = page.locator('.turn').last().locator('.answer').first();
  await answer.waitFor();
  return answer;
}

main(async (browser) => {
  await check('the live view shows the captions of the journal', async () => {
    const page = await open(browser, base, 'live');
    for (const camera of ['gate', 'yard', 'drive']) {
      const tile = page.locator(`.tile[data-camera="${camera}"]`);
      await tile.locator('.tile-text:not(:empty)').waitFor();
      const shown = await until(`a caption of ${camera}`, () => tile.evaluate((tile) => tile.dataset.event && { id: tile.dataset.event, text: tile.querySelector('.tile-text').textContent }));
      const event = await api(base, `events/${shown.id}`);
      assert(event.camera === camera, `the tile of ${camera} shows ${event.camera}`);
      assert(event.text === shown.text, `the tile shows “${shown.text}”, the journal has “${event.text}”`);
      await until(`the frame of ${camera}`, () => tile.locator('.tile-picture img').evaluate((image) => !image.hidden && image.naturalWidth > 0));
    }
    const first = await page.locator('.tile[data-camera="gate"]').getAttribute('data-event');
    await until('the next caption', async () => (await page.locator('.tile[data-camera="gate"]').getAttribute('data-event')) !== first);
    const away = page.locator('.tile[data-camera="garden"]');
    await until('the reason of the camera that is away', async () => (await away.locator('.tile-reason').textContent()).includes('Since'));
    await close(page);
  });

  await check('an answer is shown as it is written, with its frames', async () => {
    const page = await open(browser, base, `ask?${aboutWindow(await newestCaption('gate'))}`);
    await ready(page, 'ask');
    await page.evaluate(() => {
      window.pieces = 0;
      new MutationObserver((changes) => {
        window.pieces += changes.filter((change) => change.target.className === 'answer-text').length;
      }).observe(document.querySelector('.turns'), { childList: true, subtree: true });
    });
    const answer = await asked(page, 'What happens?');
    await page.locator('.answer[aria-busy=false]').waitFor();
    const refusals = await page.locator('.refused').allTextContents();
    assert(refusals.length === 0, `the question was refused: ${refusals}`);
    await page.locator('.answer .evidence img').first().waitFor();
    const pieces = await page.evaluate(() => window.pieces);
    assert(pieces > 1, `the answer was shown in ${pieces} piece`);
    const [newest] = (await api(base, 'events?kind=answer&camera=gate&limit=1')).events;
    const text = await answer.locator('.answer-text').textContent();
    assert(text === newest.text, `shown: “${text}”; in the journal: “${newest.text}”`);
    await page.getByLabel('Follow-up question').fill('Is there a person?');
    await page.getByLabel('Follow-up question').press('Enter');
    await until('the answer to the follow-up', () => page.locator('.answer[aria-busy=false]').count().then((count) => count === 2));
    const [second] = (await api(base, 'events?kind=answer&camera=gate&limit=1')).events;
    assert(second.conversation === newest.conversation && second.earlier_turns === 1, `the follow-up has ${second.earlier_turns} earlier turns`);
    await page.getByText('More', { exact: true }).click();
    await page.getByLabel('Score a yes/no question').check();
    await asked(page, 'Is there a person?');
    await page.locator('.score meter').waitFor();
    await close(page);
    return `${pieces} pieces`;
  });

  await check('a camera that cannot be asked says why', async () => {
    const page = await open(browser, base, `ask?camera=garden&${aboutWindow(await newestCaption('yard'))}`);
    await ready(page, 'ask');
    await asked(page, 'Is there a car?');
    await page.locator('.answer[aria-label="Answer about garden"] .refused').waitFor();
    await page.locator('.answer[aria-label="Answer about yard"][aria-busy=false] .evidence img').first().waitFor();
    await close(page);
  });

  await check('a gap shows its cause', async () => {
    const page = await open(browser, base, 'timeline?camera=garden&last=1h');
    const gap = page.locator('.timeline-list li', { hasText: 'The camera sent no frames' });
    await gap.first().waitFor();
    const text = await gap.first().textContent();
    const [status] = (await api(base, 'events?kind=camera_status&camera=garden&limit=1')).events;
    assert(text.includes(status.reason), `“${text}” does not have the reason “${status.reason}”`);
    await gap.first().getByRole('button').click();
    await page.locator('.lanes').press('ArrowLeft');
    await page.locator('.timeline-details .is-gap', { hasText: status.reason }).waitFor();
    await close(page);
  });

  await check('the timeline opens a caption, and a selection goes to the question', async () => {
    const page = await open(browser, base, 'timeline?camera=gate&last=1h');
    await ready(page, 'timeline');
    await page.locator('.lanes').focus();
    await page.keyboard.press('Home');
    for (let presses = 0; presses < 8; presses += 1) await page.keyboard.press('+');
    await page.keyboard.press('ArrowLeft');
    await page.locator('.timeline-details .timeline-text').waitFor();
    await page.keyboard.press('Shift+ArrowLeft');
    await page.keyboard.press('Shift+ArrowLeft');
    await page.getByRole('link', { name: 'Ask about this' }).first().click();
    await ready(page, 'ask');
    assert(/camera=gate&from=\d+&to=\d+/.test(page.url()), page.url());
    await page.getByLabel('From', { exact: true }).waitFor();
    await close(page);
  });

  await check('an address that changes while the timeline moves is followed', async () => {
    const page = await open(browser, base, 'timeline?last=1h');
    await ready(page, 'timeline');
    await page.evaluate(() => {
      document.querySelector('[aria-label="Zoom out"]').click();
      // A busy page: the timeline's timer has run down before the new address is noticed.
      setTimeout(() => {
        for (const end = performance.now() + 1000; performance.now() < end; );
      });
    });
    await page.goto(`${base}#/status`);
    await ready(page, 'status');
    assert(page.url().endsWith('#/status'), page.url());
    await close(page);
  });

  await check('a search finds a caption by its words', async () => {
    const page = await open(browser, base, 'search');
    const { events } = await api(base, 'events?kind=caption&camera=drive&limit=1');
    await page.getByLabel('Search for').fill(events[0].text.replace(/[^\w ]/g, ' '));
    await page.getByLabel('Search for').press('Enter');
    await page.locator('.hit mark').first().waitFor();
    await until('the coverage', async () => (await page.locator('.search-state').textContent()).includes('Searched captions of'));
    assert(page.url().includes('search?q='), page.url());
    await page.getByLabel('Compare').selectOption('words');
    await until('the mode in the address', () => page.url().includes('mode=words'));
    await page.goBack();
    await until('the search before', () => !page.url().includes('mode=words'));
    await close(page);
  });

  await check('the status names the camera that is away, and what to do', async () => {
    const page = await open(browser, base, 'status');
    await ready(page, 'status');
    await page.locator('.findings li', { hasText: 'garden' }).locator('p').waitFor();
    assert((await page.locator('tbody tr').count()) === 4, 'the table has not four cameras');
    await close(page);
  });

  await check('keys switch views, and list themselves', async () => {
    const page = await open(browser, base, 'live');
    await ready(page, 'live');
    await page.keyboard.press('2');
    await ready(page, 'timeline');
    await page.keyboard.press('6');
    await ready(page, 'status');
    await page.keyboard.press('?');
    await page.getByRole('dialog').getByText('Timeline: zoom').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    await page.goBack();
    await ready(page, 'timeline');
    await close(page);
  });

  for (const [size, viewport] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    for (const colorScheme of ['light', 'dark']) {
      await check(`every view fits and is accessible: ${size}, ${colorScheme}`, async () => {
        const page = await open(browser, base, VIEWS[0], { viewport, colorScheme });
        for (const view of VIEWS) {
          await page.goto(`${base}#/${view}`);
          await ready(page, view);
          await fits(page);
          await accessible(page);
        }
        await close(page);
      });
    }
  }

  await check('a proxy may serve the page at any path', async () => {
    const address = await proxy(base, '/some/cameras/');
    const page = await open(browser, address, 'live');
    await ready(page, 'live');
    await page.goto(`${address}#/ask?${aboutWindow(await newestCaption('gate'))}`);
    await ready(page, 'ask');
    await asked(page, 'Is there a person?');
    await page.locator('.answer[aria-busy=false] .answer-note').first().waitFor();
    await close(page);
  });

  if (process.env.UPDATE_SCREENSHOTS) await screenshots(browser, base);

  await check('the page survives a restart of the daemon', async () => {
    const page = await open(browser, base, 'live');
    await ready(page, 'live');
    const tile = page.locator('.tile[data-camera="gate"]');
    const runOfTile = async () => (await tile.getAttribute('data-event'))?.split('.')[0];
    const run = await until('a caption', runOfTile);
    page.isCut = true;
    await act('stop');
    await page.locator('#banner', { hasText: 'Connection lost. Trying again…' }).waitFor();
    await act('start');
    await page.locator('#banner').waitFor({ state: 'hidden' });
    await until('a caption of the new run', async () => (await runOfTile()) > run);
    await close(page);
  });
});
