// Checks the view Cameras on a running daemon whose config file has the camera `gate`.
//
//   node cameras.mjs ADDRESS URL AWAY
//
// URL is a stream that plays, AWAY a host and a port where no camera is. With UPDATE_SCREENSHOTS it
// takes the picture of the documents.

import { fileURLToPath } from 'node:url';

import { DESKTOP, PHONE, accessible, act, api, assert, check, close, fits, main, open, until } from './harness.mjs';

const [base, url, away] = process.argv.slice(2);

/** What the browser writes to the console about requests that the daemon refuses. */
const REFUSED = /status of (400|404|503)/;

const PASSWORD = 'Pl@nted';

/** Opens the view with its cards. */
async function openCameras(browser, options = {}) {
  const page = await open(browser, base, 'cameras', { expected: REFUSED, ...options });
  await card(page, 'gate').waitFor();
  return page;
}

function card(page, name) {
  return page.locator(`.camera-card[data-camera="${name}"]`);
}

/** Waits until a card shows a state. */
async function shows(page, name, state) {
  await card(page, name).locator('.pill', { hasText: state }).waitFor();
}

/** Presses a button of a card. */
async function press(page, name, button) {
  await card(page, name).getByRole('button', { name: `${button} ${name}` }).click();
}

/** Opens the form and fills in fields by their labels. */
async function fill(page, fields) {
  await page.getByRole('button', { name: 'Add a camera' }).click();
  for (const [label, text] of Object.entries(fields)) await page.getByLabel(label, { exact: true }).fill(text);
}

/** Submits the form and returns the error of a field. */
async function refused(page, key) {
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  const error = page.locator(`#camera-${key}-error`);
  await until(`the error of ${key}`, async () => (await error.textContent()) !== '');
  assert((await page.locator(`#camera-${key}`).getAttribute('aria-invalid')) === 'true', `${key} is not marked`);
  return error.textContent();
}

main(async (browser) => {
  await check('a camera of the config file is paused and resumed, and not changed', async () => {
    const page = await openCameras(browser);
    await shows(page, 'gate', 'Live');
    await card(page, 'gate').getByText('lookout.toml, line').waitFor();
    for (const name of ['Edit', 'Remove']) {
      assert((await card(page, 'gate').getByRole('button', { name }).count()) === 0, `it has the button ${name}`);
    }
    await press(page, 'gate', 'Pause');
    await shows(page, 'gate', 'Paused');
    await page.getByText('camera "gate" changed: paused.').waitFor();
    await press(page, 'gate', 'Resume');
    await shows(page, 'gate', 'Live');
    await close(page);
  });

  await check('each error is next to its field', async () => {
    const page = await openCameras(browser);
    await fill(page, { Name: 'a b', Address: url });
    assert((await refused(page, 'name')).includes('1 to 64 letters'), 'the name');
    await page.getByLabel('Name', { exact: true }).fill('gate');
    assert((await refused(page, 'name')).includes('is named "gate" already'), 'a name that is taken');
    await page.getByLabel('Name', { exact: true }).fill('drive');
    await page.getByLabel('Address', { exact: true }).fill('https://cam/live');
    assert((await refused(page, 'url')).includes('wanted rtsp, rtsps or file'), 'the address');
    await page.getByLabel('Address', { exact: true }).fill(url);
    await page.getByText('More settings').click();
    await page.getByLabel('Window', { exact: true }).fill('soon');
    assert((await refused(page, 'window')).includes('camera "drive": window'.replace('camera', 'Camera')), 'the window');
    await page.getByLabel('Window', { exact: true }).fill('');
    await page.getByLabel('Frames per second', { exact: true }).fill('99');
    assert((await refused(page, 'fps')).includes('fps = 99'), 'the rate');
    await page.getByLabel('Frames per second', { exact: true }).fill('');
    await page.getByLabel('Address', { exact: true }).fill(`rtsp://${away}/live`);
    assert((await refused(page, 'url')).includes('connection refused'), 'a camera that is away');
    await page.getByRole('button', { name: 'Add it anyway' }).waitFor();
    await accessible(page);
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.locator('.camera-form').waitFor({ state: 'detached' });
    assert((await api(base, 'cameras')).cameras.length === 1, 'a camera was added');
    await close(page);
  });

  await check('a camera is added, and its caption appears', async () => {
    const page = await openCameras(browser);
    await fill(page, { Name: 'drive', Address: url, 'Prompt of the captions': 'What do you see?' });
    await page.getByText('More settings').click();
    await page.getByLabel('Frames per second', { exact: true }).fill('2');
    await page.getByLabel('Window', { exact: true }).fill('4s');
    await page.getByLabel('Time between captions', { exact: true }).fill('2s');
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByText('camera "drive" added.').waitFor();
    await shows(page, 'drive', 'Live');
    await card(page, 'drive').getByText('Added while lookout was running.').waitFor();
    await page.keyboard.press('1');
    const tile = page.locator('.tile[data-camera="drive"][data-event]');
    await tile.locator('.tile-text:not(:empty)').waitFor();
    const event = await api(base, `events/${await tile.getAttribute('data-event')}`);
    assert(event.camera === 'drive' && event.prompt === 'What do you see?', JSON.stringify(event.prompt));
    await close(page);
  });

  await check('a change of the prompt reaches the next caption', async () => {
    const page = await openCameras(browser);
    await press(page, 'drive', 'Edit');
    const prompt = page.getByLabel('Prompt of the captions', { exact: true });
    assert((await prompt.inputValue()) === 'What do you see?', 'the prompt is not filled in');
    await prompt.fill('Is there a car?');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('camera "drive" changed: caption_prompt.').waitFor();
    await until('a caption of the new prompt', async () => {
      const { events } = await api(base, 'events?kind=caption&camera=drive&limit=1');
      return events[0].prompt === 'Is there a car?';
    });
    await press(page, 'drive', 'Edit');
    await prompt.fill('');
    await page.getByRole('button', { name: 'Save' }).click();
    await card(page, 'drive').getByText('Prompt: the default').waitFor();
    await close(page);
  });

  await check('a password is stored and never shown again', async () => {
    const page = await openCameras(browser);
    await fill(page, { Name: 'porch', Address: `rtsp://${away}/live`, User: 'me', Password: PASSWORD });
    await refused(page, 'url');
    await page.getByRole('button', { name: 'Add it anyway' }).click();
    await card(page, 'porch').waitFor();
    await act('the password is stored');
    await press(page, 'porch', 'Edit');
    const address = page.getByLabel('Address', { exact: true });
    assert((await address.inputValue()) === '', 'the address with a password is filled in');
    await page.getByText(`Now rtsp://${away}/live.`).waitFor();
    await page.getByText('More settings').click();
    await page.getByLabel('Frames per second', { exact: true }).fill('2');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('camera "porch" changed: fps.').waitFor();
    await act('the rate is stored, too');
    await press(page, 'porch', 'Edit');
    await page.getByLabel('Password', { exact: true }).fill('other');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('Type the whole address to change the user or the password.').waitFor();
    const replies = await Promise.all(['cameras', 'config/cameras'].map((path) => api(base, path)));
    const shown = JSON.stringify(replies) + (await page.evaluate(() => document.documentElement.outerHTML));
    for (const secret of [PASSWORD, encodeURIComponent(PASSWORD), 'me:']) {
      assert(!shown.includes(secret), `${secret} is shown`);
    }
    await close(page);
  });

  for (const [size, viewport] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    for (const colorScheme of ['light', 'dark']) {
      await check(`the cards, the form and the question fit and are accessible: ${size}, ${colorScheme}`, async () => {
        const page = await openCameras(browser, { viewport, colorScheme });
        await card(page, 'porch').waitFor();
        await press(page, 'drive', 'Edit');
        await page.getByText('More settings').click();
        await fits(page);
        await accessible(page);
        if (process.env.UPDATE_SCREENSHOTS && viewport === DESKTOP && colorScheme === 'light') {
          await page.evaluate(() => document.activeElement.blur());
          const path = fileURLToPath(new URL('../../docs/images/page-cameras.jpg', import.meta.url));
          await page.screenshot({ path, type: 'jpeg', quality: 78 });
        }
        await page.getByRole('button', { name: 'Cancel' }).click();
        await press(page, 'drive', 'Remove');
        await page.getByRole('dialog').waitFor();
        await fits(page);
        await accessible(page);
        await page.getByRole('button', { name: 'Cancel' }).click();
        await page.getByRole('dialog').waitFor({ state: 'detached' });
        await close(page);
      });
    }
  }

  await check('an added camera is paused, resumed and removed', async () => {
    const page = await openCameras(browser);
    await press(page, 'drive', 'Pause');
    await shows(page, 'drive', 'Paused');
    await press(page, 'drive', 'Resume');
    await shows(page, 'drive', 'Live');
    for (const name of ['drive', 'porch']) {
      await press(page, name, 'Remove');
      await page.getByRole('dialog').getByText(`Remove the camera ${name}?`).waitFor();
      await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
      await card(page, name).waitFor({ state: 'detached' });
      await page.getByText(`camera "${name}" removed.`).waitFor();
    }
    assert((await api(base, 'cameras')).cameras.length === 1, 'a camera is left');
    await page.keyboard.press('1');
    await until('the tile to be gone', async () => (await page.locator('.tile').count()) === 1);
    await close(page);
  });
});
