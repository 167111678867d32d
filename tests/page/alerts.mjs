// Checks alerts, clips, trials and live video on a running daemon with the camera `drive` and the
// rule `car`, whose alerts have clips.
//
//   node alerts.mjs ADDRESS

import { PHONE, accessible, api, assert, check, close, fits, main, open, plays, until } from './harness.mjs';

const base = process.argv[2];

/** Longest wait for an alert with its clip, and for a trial, in milliseconds. */
const ALERT = 150000;

main(async (browser) => {
  await check('live video plays in the view of a camera', async () => {
    const page = await open(browser, base, 'camera?name=drive');
    await page.locator('.screen.is-playing').waitFor();
    await plays(page.locator('.screen video'));
    await page.locator('.camera-events li').first().waitFor();
    await accessible(page);
    await close(page);
  });

  await check('live video plays in a tile, and can be switched off', async () => {
    const page = await open(browser, base, 'live');
    const tile = page.locator('.tile[data-camera="drive"]');
    await page.locator('.tile.is-playing').waitFor();
    await plays(tile.locator('video'));
    await page.getByRole('checkbox', { name: 'Live video' }).uncheck();
    await until('the tile to show frames', () => tile.locator('video').evaluate((video) => video.hidden));
    await close(page);
  });

  const ready = await until('an alert with its clip', async () => {
    const { alerts } = await api(base, 'alerts?rule=car&state=ended');
    return alerts.find((alert) => alert.clip?.state === 'ready');
  }, ALERT);

  await check('the event of an alert shows its frames and plays its clip', async () => {
    const page = await open(browser, base, `event?id=${ready.run}.${ready.sequence}`);
    const video = page.locator('.clip video');
    await video.waitFor();
    await video.evaluate((video) => video.play());
    await plays(video);
    const frames = page.locator('.strip button');
    assert((await frames.count()) === ready.frames.length, `${await frames.count()} of ${ready.frames.length} frames`);
    await until('a frame', () => page.locator('.frame img').evaluate((image) => image.naturalWidth > 0));
    const chosen = page.locator('.frames figcaption');
    const before = await chosen.textContent();
    await page.locator('.strip button[aria-pressed=true]').press('ArrowLeft');
    assert((await chosen.textContent()) !== before, 'the arrow chooses no other frame');
    await page.getByText('What the model saw').waitFor();
    await page.locator('.story li').nth(1).waitFor();
    await accessible(page);
    await close(page);
  });

  await check('a kept event is kept in the journal', async () => {
    const { events } = await api(base, 'events?kind=caption&limit=1');
    const id = `${events[0].run}.${events[0].sequence}`;
    const page = await open(browser, base, `event?id=${id}`);
    await page.getByRole('button', { name: 'Keep', exact: true }).click();
    await page.getByRole('button', { name: 'Kept', exact: true }).waitFor();
    assert((await api(base, `events/${id}`)).kept === true, 'the journal does not keep the event');
    await accessible(page);
    await close(page);
  });

  await check('an acknowledgement reaches the journal', async () => {
    const page = await open(browser, base, 'alerts');
    const card = page.locator('section', { hasText: 'Past' }).locator('.alert-card').last();
    await card.getByRole('button', { name: 'Mark as false' }).click();
    const marked = await until('the acknowledgement', async () => {
      const { alerts } = await api(base, 'alerts?state=ended');
      return alerts.find((alert) => alert.acknowledgement?.false_alarm);
    });
    const { events } = await api(base, `events?kind=alert&limit=200`);
    assert(events.some((event) => event.alert_id === marked.alert_id && event.phase === 'acknowledged'), 'no event of it');
    await page.getByText('Marked as false').first().waitFor();
    await page.locator('.alert-card .curve-line').first().waitFor({ state: 'attached' });
    await accessible(page);
    await close(page);
  });

  await check('a trial shows its curve, its alerts and the text for the config', async () => {
    const page = await open(browser, base, 'trial?rule=car&camera=drive&last=1m');
    await page.getByRole('button', { name: 'Try', exact: true }).click();
    await until('the summary', async () => / windows? scored: /.test(await page.locator('.trial-result [role=status]').textContent()), ALERT);
    // A level line has no height, so that it counts as hidden.
    await page.locator('.trial-result .curve-line').first().waitFor({ state: 'attached' });
    await page.locator('.tried-alerts a').first().waitFor();
    const text = await page.locator('.toml pre').textContent();
    assert(text.includes('question = "Is there a car?"') && text.startsWith('[[rule]]'), text);
    await accessible(page);
    await page.locator('.trial-form select').nth(1).selectOption('');
    await page.getByLabel('Question').fill('Is there a "dog"?');
    await page.getByRole('button', { name: 'Try', exact: true }).click();
    await until('the new rule', async () => (await page.locator('.toml pre').textContent()).includes('question = "Is there a \\"dog\\"?"'));
    await close(page);
  });

  await check('the views fit a phone, in the dark', async () => {
    for (const view of ['alerts', 'trial', 'camera?name=drive', `event?id=${ready.run}.${ready.sequence}`]) {
      const page = await open(browser, base, view, { viewport: PHONE, colorScheme: 'dark' });
      await page.locator('.panel').first().waitFor();
      await fits(page);
      await accessible(page);
      await close(page);
    }
  });

  await check('what is gone says so', async () => {
    const page = await open(browser, base, 'camera?name=attic');
    await page.getByText('No camera is named attic').waitFor();
    await close(page);
  });
});
